"""Operations: a local Triton, the launcher that makes a replica warm, and the control API."""
