//! ipip on the wire (RFC 2003): one IPv4 header in front of an IPv4 packet, protocol 4.
