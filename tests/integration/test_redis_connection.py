"""The password of Redis is read when a connection is made: it can change while programs run."""

from pathlib import Path
from urllib.parse import urlencode

import pytest
import redis

from dcm_processor.redis_connection import connect
from tests.servers import ValkeyServer


def test_a_rotated_password_holds_from_the_next_connection_on(tmp_path: Path, valkey: ValkeyServer) -> None:
    file = tmp_path / "redis_password"
    file.write_text("first\n")
    admin = redis.Redis.from_url(valkey.url)
    admin.config_set("requirepass", "first")
    try:
        client = connect(f"{valkey.url}?{urlencode({'password_file': file})}")
        assert client.ping()
        admin.config_set("requirepass", "second")
        file.write_text("second\n")
        client.connection_pool.disconnect()
        assert client.ping()
        file.unlink()
        client.connection_pool.disconnect()
        with pytest.raises(redis.ConnectionError, match="redis_password"):
            client.ping()
    finally:
        admin.config_set("requirepass", "")
