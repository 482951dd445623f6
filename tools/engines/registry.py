"""Real servers of the engines that seglog forwards to, and trials on them. `ENGINES`: all there are."""

from tools.engines.file import File
from tools.engines.kafka import Kafka
from tools.engines.nats import Nats
from tools.engines.otlp import Otlp
from tools.engines.rabbitmq import RabbitMQ
from tools.engines.redis import Redis
from tools.engines.server import Engine

ENGINES: tuple[type[Engine], ...] = (Redis, Kafka, RabbitMQ, Nats, File, Otlp)
