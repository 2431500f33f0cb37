"""Weights from and to the world: files of other tools are recognised and read, encoders are written for other tools."""
