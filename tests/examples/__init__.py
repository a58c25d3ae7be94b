"""The examples, run as somebody runs them: real processes, a real Valkey."""
