"""Searching for recipes: which designs are worth having, when accuracy is paid for with bytes and MACs.

`read` takes what is to be searched from a YAML file, `run` carries it out. The trials stand in a database: a file for
the processes of one machine, PostgreSQL for several. Who starts the same sweep joins it, or goes on with it.

Designs are compared on validation images. Only those on the final front meet the test images.
"""

from edgelab.sweep._config import Config, read
from edgelab.sweep._result import Found, in_words, run, table
from edgelab.sweep._study import Outcome, Step, front, search

__all__ = ["Config", "Found", "Outcome", "Step", "front", "in_words", "read", "run", "search", "table"]
