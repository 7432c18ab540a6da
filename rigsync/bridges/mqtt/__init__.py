"""MQTT: events and the picture of each rig at a broker, where a whole facility sees them."""

from rigsync.bridges.mqtt.bridge import MqttBridge as MqttBridge
