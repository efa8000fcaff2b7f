"""The factories make what they say: valid, encodable, signed by the right key."""

import inspect

import pytest

from gpumarket.protocol.codec import decode_document_untrusted, encode_document
from gpumarket.protocol.order import check_order_fits
from gpumarket.protocol.signing import verify
from gpumarket.testing import factories

VALUES = (
    "image input output resources spec order device offer card lease_offer reason result receipt "
    "provider_root own_result seal opening evidence attestation usage"
).split()


@pytest.mark.parametrize("name", VALUES)
def test_a_made_value_survives_the_wire(name):
    value = getattr(factories, f"make_{name}")()
    assert decode_document_untrusted(encode_document(value), type(value)) == value


def test_every_factory_of_a_plain_value_is_tried_above():
    made = {
        name.removeprefix("make_") for name, _ in inspect.getmembers(factories) if "make_" in name
    }
    assert made - set(VALUES) == {
        "key", "address", "hash", "cid", "signed_order", "signed_offer", "signed_card",
        "assignment", "secret",
    }  # fmt: skip


def test_signed_values_verify():
    order, offer = factories.make_signed_order(), factories.make_signed_offer("provider-2")
    assert verify(order, factories.DOMAIN).signer == factories.make_address("requester")
    assert verify(offer, factories.DOMAIN).signer == factories.make_address("provider-2")
    assert verify(factories.make_signed_card(), factories.DOMAIN).body.verifier


def test_the_default_order_fits_the_default_job():
    check_order_fits(factories.make_order(), factories.make_spec(), now=factories.NOW)
