"""Model rollouts that lose nothing: stage, prove, shadow, canary, promote, roll back (docs/rollouts.md)."""
