"""What this machine has: backends and their devices, drivers, processor cores, memory, and native builds."""
