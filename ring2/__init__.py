"""Platform as a Service: what runs inside an app's node."""
