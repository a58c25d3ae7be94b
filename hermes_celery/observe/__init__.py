"""What is asked of a running system: figures and findings."""
