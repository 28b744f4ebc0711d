"""The system under test: wire, partition servers, dispatcher, failure detection and recovery."""
