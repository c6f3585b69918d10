"""Models and LoRAs by name: what is known of them, which variant fits, and the files that a name stands for."""
