"""Turns models as their authors publish them into versions of the stage contracts."""
