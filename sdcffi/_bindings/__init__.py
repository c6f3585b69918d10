"""What touches cffi and the engine's library: loading, plug-ins, marshalling, callbacks, and one native session."""
