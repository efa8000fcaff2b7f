"""Every bound of this process's presence among its peers, in one place."""

from dataclasses import dataclass, field

from gpumarket.adapters.session import SessionLimits


@dataclass(frozen=True, kw_only=True)
class NetworkLimits:
    """Every bound of one host; durations in seconds, sizes in bytes."""

    connections_max: int = 512
    connections_per_peer_max: int = 4
    connections_per_peer_per_second: float = 10.0
    connections_per_peer_burst: float = 50.0
    pending_connections_per_ip_max: int = 32
    """Connections that have not finished their handshake: silent ones must not take all slots."""
    dials_at_once_max: int = 16
    dial_seconds_max: float = 10.0
    upgrade_seconds_max: float = 5.0
    streams_max: int = 8_192
    streams_per_peer_max: int = 64
    stream_window_bytes_max: int = 4 << 20
    """What a peer may send on one stream before we read it; one value for the whole process."""
    sessions_per_peer_max: int = 4
    buffered_bytes_per_connection_max: int = 64 << 20
    """libp2p only logs when a peer sends beyond its window; beyond this we hang up."""
    memory_mb_max: int = 1_024
    gossip_message_bytes_max: int = 64 << 10
    gossip_messages_per_second: int = 20
    """Accepted from one neighbor, whoever the origin is."""
    gossip_messages_burst: int = 200
    gossip_inbox_messages_max: int = 256
    gossip_topics_per_peer_max: int = 32
    gossip_reminder_seconds: float = 30.0
    """Until neighbors are told again what we subscribe to."""
    restarts_max: int = 5
    restart_window_seconds: float = 600.0
    restart_pause_seconds: float = 0.5
    session: SessionLimits = field(default_factory=SessionLimits)
