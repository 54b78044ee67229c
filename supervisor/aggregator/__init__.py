"""The aggregator: it joins rows with identities, groups them, and writes the stream for Netdata."""
