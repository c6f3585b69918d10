"""Independent data about the names of LoRA modules, made by hand with `python -m lora_oracle` in tests/.

Which rows of which original weight a module of diffusers consists of is read off diffusers' own converters of
checkpoints: every row of every original tensor carries a number of its own, and the converter says where it goes.
Nothing here imports the package.
"""
