"""What model and LoRA files hold, read from their headers: kinds, parts, weight types, memory."""
