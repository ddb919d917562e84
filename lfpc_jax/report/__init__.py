"""What people look at: pictures and pages made of runs and trajectories."""
