"""ZeroMQ: events and requests in JSON, for programs in any language that has ZeroMQ; and joined hubs."""

from rigsync.bridges.zmq.bridge import ZmqBridge as ZmqBridge
from rigsync.bridges.zmq.hubs import ZmqBoundary as ZmqBoundary
from rigsync.bridges.zmq.hubs import ZmqSink as ZmqSink
from rigsync.bridges.zmq.hubs import ZmqSource as ZmqSource
