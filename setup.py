# SPDX-License-Identifier: GPL-3.0-or-later
"""Scipion's installer looks for a setup.py; all facts are in pyproject.toml."""

from setuptools import setup

setup()
