"""What the black-box and fault tests share: servers, clients, payloads, faults."""
