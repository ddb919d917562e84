"""What an episode earns: answer, format, tool and boxes, every part kept apart."""
