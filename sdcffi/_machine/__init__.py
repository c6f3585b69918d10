"""The machine: backends and their devices, drivers, processor cores, memory, and native builds."""
