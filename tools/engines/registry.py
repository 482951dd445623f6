"""Real servers of the engines that seglog forwards to, and trials on them. `ENGINES`: all there are."""

from tools.engines.redis import Redis
from tools.engines.server import Engine

ENGINES: tuple[type[Engine], ...] = (Redis,)
