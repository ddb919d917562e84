"""What every command shares: a run's settings and folder, models by name, sampling, health."""
