"""Model and LoRA files, read by their headers: kinds, parts, weight types and memory."""
