"""The one door to an LLM: endpoint, requests, replies, budget."""
