"""ZeroMQ: events to subscribers, and requests in JSON, for programs in any language that has it."""

from rigsync.bridges.zmq.bridge import ZmqBridge as ZmqBridge
