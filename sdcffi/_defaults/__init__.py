"""What a call uses where it says nothing: values that suit the model, each with where it comes from.

`recommend` gathers them, the first source of each value counts:

- what the catalogue of models has of it, which the caller hands over;
- `metadata`: what the model's file says of itself;
- `families`: what its family was made for, as far as its tensors tell the family.

What none of them knows is the engine's own.
"""
