// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.37;

import {Settlement} from "../src/Settlement.sol";
import {Hashing} from "../src/libraries/Hashing.sol";
import {Header} from "../src/libraries/Header.sol";
import {SumTree} from "../src/libraries/SumTree.sol";
import {Fixture} from "./Fixture.sol";
import {VM} from "./Vm.sol";

/// @notice Solidity computes what Python wrote to tests/vectors/settlement.json.
contract VectorsTest is Fixture {
    string internal json;
    bytes32 internal separator;

    /// @notice How many values of the present list were compared; none would prove nothing.
    uint256 internal compared;

    function setUp() public override {
        super.setUp();
        json = VM.readFile("../tests/vectors/settlement.json");
        separator = VM.parseJsonBytes32(json, ".domain.separator");
    }

    /* TESTS */

    function test_Domain() external {
        VM.chainId(_uint(".domain", "chainId"));
        address contract_ = VM.parseJsonAddress(json, ".domain.verifyingContract");
        VM.etch(contract_, address(settlement).code);
        assertEq(Settlement(contract_).DOMAIN_SEPARATOR(), separator, "separator");
    }

    function test_Orders() external {
        for (string memory item; _next("orders"); ++compared) {
            item = _item("orders");
            _assertHashes(item, Hashing.hash(_order(item)));
        }
        assertTrue(compared > 0, "orders");
    }

    function test_Receipts() external {
        for (string memory item; _next("receipts"); ++compared) {
            item = _item("receipts");
            Hashing.Receipt memory receipt = Hashing.Receipt({
                orderHash: _hash(item, "orderHash"),
                unit: uint32(_uint(item, "unit")),
                provider: _address(item, "provider"),
                resultHash: _hash(item, "resultHash"),
                price: uint64(_uint(item, "price")),
                finishedAt: uint64(_uint(item, "finishedAt"))
            });
            _assertHashes(item, Hashing.hash(receipt));
        }
        assertTrue(compared > 0, "receipts");
    }

    function test_Attestations() external {
        for (string memory item; _next("attestations"); ++compared) {
            item = _item("attestations");
            Hashing.Attestation memory attestation = Hashing.Attestation({
                receiptHash: _hash(item, "receiptHash"),
                verdict: uint8(_uint(item, "verdict")),
                evidenceHash: _hash(item, "evidenceHash"),
                issuedAt: uint64(_uint(item, "issuedAt"))
            });
            _assertHashes(item, Hashing.hash(attestation));
        }
        assertTrue(compared > 0, "attestations");
    }

    function test_Documents() external {
        for (string memory item; _next("documents"); ++compared) {
            item = _item("documents");
            string memory kind = VM.parseJsonString(json, string.concat(item, ".kind"));
            _assertHashes(item, Hashing.hash(Hashing.Document(kind, _hash(item, "contentHash"))));
        }
        assertTrue(compared > 0, "documents");
    }

    function test_Signatures() external {
        for (string memory item; _next("signatures"); ++compared) {
            item = _item("signatures");
            bytes memory signature = VM.parseJsonBytes(json, string.concat(item, ".signature"));
            (bytes32 r, bytes32 s) = abi.decode(signature, (bytes32, bytes32));
            address signer = ecrecover(_hash(item, "digest"), uint8(signature[64]), r, s);
            assertEq(signer, _address(item, "signer"), item);
        }
        assertTrue(compared > 0, "signatures");
    }

    function test_Leaves() external {
        for (string memory item; _next("leaves"); ++compared) {
            item = _item("leaves");
            bytes32 leaf = Hashing.leaf(
                _hash(item, "orderHash"),
                uint32(_uint(item, "unit")),
                _hash(item, "receiptHash"),
                uint64(_uint(item, "price"))
            );
            assertEq(leaf, _hash(item, "hash"), item);
        }
        assertTrue(compared > 0, "leaves");
    }

    function test_Trees() external {
        for (string memory item; _next("trees"); ++compared) {
            item = _item("trees");
            (bytes32[] memory hashes, uint64[] memory sums) = _pairs(string.concat(item, ".leaves"));
            (bytes32 root, uint64 sum) = SumTree.root(hashes, sums);
            assertEq(root, _hash(item, "root"), item);
            assertEq(sum, _uint(item, "sum"), item);
            uint256 i = _uint(item, "index");
            (bytes32[] memory h, uint64[] memory s) = _pairs(string.concat(item, ".path"));
            assertTrue(SumTree.verify(root, sum, hashes.length, i, hashes[i], sums[i], h, s), item);
        }
        assertTrue(compared > 0, "trees");
    }

    function test_Seeds() external {
        VM.chainId(_uint(".domain", "chainId"));
        address contract_ = VM.parseJsonAddress(json, ".domain.verifyingContract");
        for (string memory item; _next("seeds"); ++compared) {
            item = _item("seeds");
            bytes32 seed = Hashing.seed(
                contract_,
                _address(item, "committer"),
                uint64(_uint(item, "seq")),
                _hash(item, "root"),
                _hash(item, "mixHash"),
                keccak256(VM.parseJsonBytes(json, string.concat(item, ".nonces")))
            );
            assertEq(seed, _hash(item, "seed"), item);
        }
        assertTrue(compared > 0, "seeds");
    }

    function test_Headers() external {
        for (string memory item; _next("headers"); ++compared) {
            item = _item("headers");
            bytes memory rlp = VM.parseJsonBytes(json, string.concat(item, ".rlp"));
            assertEq(keccak256(rlp), _hash(item, "hash"), item);
            assertEq(this.readMixHash(rlp), _hash(item, "mixHash"), item);
        }
        assertTrue(compared > 0, "headers");
    }

    function test_Batches() external {
        _bond(COORDINATOR, MIN_BOND);
        for (string memory item; _next("batches"); ++compared) {
            item = _item("batches");
            address[] memory requesters =
                VM.parseJsonAddressArray(json, string.concat(item, ".requesters"));
            address[] memory payees = VM.parseJsonAddressArray(json, string.concat(item, ".payees"));
            for (uint256 i = 0; i < requesters.length; ++i) {
                _deposit(requesters[i], 100e6);
            }
            VM.warp(_uint(item, "postedAt"));
            bytes memory lanes = VM.parseJsonBytes(json, string.concat(item, ".lanes"));
            VM.prank(COORDINATOR);
            uint64 seq = settlement.postBatch(_hash(item, "dataHash"), requesters, payees, lanes);
            assertEq(settlement.batchOf(COORDINATOR, seq), _hash(item, "commitment"), item);
        }
        assertTrue(compared > 0, "batches");
    }

    /// @dev External, because headers are read from calldata.
    function readMixHash(bytes calldata rlp) external pure returns (bytes32) {
        return Header.mixHash(rlp);
    }

    /* READING */

    function _order(string memory item) internal view returns (Hashing.Order memory order) {
        order.requester = _address(item, "requester");
        order.coordinator = _address(item, "coordinator");
        order.provider = _address(item, "provider");
        order.jobHash = _hash(item, "jobHash");
        order.verifyHash = _hash(item, "verifyHash");
        order.units = uint32(_uint(item, "units"));
        order.checks = uint32(_uint(item, "checks"));
        order.maxUnitPrice = uint64(_uint(item, "maxUnitPrice"));
        order.maxCheckPrice = uint64(_uint(item, "maxCheckPrice"));
        order.maxFee = uint64(_uint(item, "maxFee"));
        order.settleBy = uint64(_uint(item, "settleBy"));
        order.expiry = uint64(_uint(item, "expiry"));
        order.nonce = uint256(_hash(item, "nonce"));
    }

    function _assertHashes(string memory item, bytes32 structHash) internal view {
        assertEq(structHash, _hash(item, "structHash"), item);
        bytes32 digest = keccak256(abi.encodePacked(hex"1901", separator, structHash));
        assertEq(digest, _hash(item, "digest"), item);
    }

    function _pairs(string memory list)
        internal
        view
        returns (bytes32[] memory hashes, uint64[] memory sums)
    {
        uint256 count = 0;
        while (VM.keyExistsJson(json, _element(list, count))) ++count;
        hashes = new bytes32[](count);
        sums = new uint64[](count);
        for (uint256 i = 0; i < count; ++i) {
            hashes[i] = _hash(_element(list, i), "hash");
            sums[i] = uint64(_uint(_element(list, i), "sum"));
        }
    }

    function _next(string memory list) internal view returns (bool) {
        return VM.keyExistsJson(json, _item(list));
    }

    function _item(string memory list) internal view returns (string memory) {
        return _element(string.concat(".", list), compared);
    }

    function _element(string memory list, uint256 index) internal pure returns (string memory) {
        return string.concat(list, "[", VM.toString(index), "]");
    }

    function _uint(string memory item, string memory key) internal view returns (uint256) {
        return VM.parseJsonUint(json, string.concat(item, ".", key));
    }

    function _hash(string memory item, string memory key) internal view returns (bytes32) {
        return VM.parseJsonBytes32(json, string.concat(item, ".", key));
    }

    function _address(string memory item, string memory key) internal view returns (address) {
        return VM.parseJsonAddress(json, string.concat(item, ".", key));
    }
}
