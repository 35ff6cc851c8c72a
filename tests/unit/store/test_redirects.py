import httpx2
import pytest

from edged.errors import SourceUnavailable
from edged.store.sources.transfer import HubSettings, check_target

pytestmark = pytest.mark.unit

# Numeric addresses, so that no name is looked up. 1.1.1.1 stands for a public hub.
PUBLIC = httpx2.URL("https://1.1.1.1")


@pytest.mark.parametrize("target", [
    "https://127.0.0.1/x", "https://[::1]/x", "https://10.0.0.1/x", "https://192.168.1.1/x", "https://169.254.169.254/x",
    "https://[fe80::1]/x", "https://0.0.0.0/x", "https://[::ffff:127.0.0.1]/x", "https://100.64.0.1/x",
])
def test_a_public_hub_cannot_send_us_to_a_private_address(target: str) -> None:
    with pytest.raises(SourceUnavailable, match="private address"):
        check_target(PUBLIC, httpx2.URL(target))


@pytest.mark.parametrize("target", ["http://8.8.8.8/x", "http://1.1.1.1/x", "file:///etc/passwd", "ftp://8.8.8.8/x"])
def test_a_redirect_to_another_scheme_or_less_safety_is_refused(target: str) -> None:
    with pytest.raises(SourceUnavailable, match="not followed"):
        check_target(PUBLIC, httpx2.URL(target))


@pytest.mark.parametrize(("hub", "target"), [
    ("https://1.1.1.1", "https://8.8.8.8/x"), ("https://1.1.1.1", "https://1.1.1.1:443/x"),
    ("http://127.0.0.1:1", "http://127.0.0.1:2/x"), ("http://192.168.0.9", "https://192.168.0.10/x"),
])
def test_another_public_host_and_a_mirror_at_home_are_followed(hub: str, target: str) -> None:
    check_target(httpx2.URL(hub), httpx2.URL(target))


def test_a_token_is_not_in_the_settings_text() -> None:
    assert "hf_canary" not in repr(HubSettings(token="hf_canary"))
