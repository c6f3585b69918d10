"""The engine as programs use it: `Engine`, `Upscaler`, conversion and edges, and what their calls return."""
