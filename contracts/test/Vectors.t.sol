// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.37;

import {Settlement} from "../src/Settlement.sol";
import {Judge} from "../src/disputes/Judge.sol";
import {IDisputes} from "../src/interfaces/IDisputes.sol";
import {ISeeds} from "../src/interfaces/ISeeds.sol";
import {ISettlement} from "../src/interfaces/ISettlement.sol";
import {Hashing} from "../src/libraries/Hashing.sol";
import {Header} from "../src/libraries/Header.sol";
import {LeafFaults} from "../src/libraries/LeafFaults.sol";
import {SumTree} from "../src/libraries/SumTree.sol";
import {Fixture} from "./Fixture.sol";
import {Trees} from "./Trees.sol";
import {VM} from "./Vm.sol";

/// @notice Stands for Settlement: writes down what is given of a slash.
contract Purse {
    // solhint-disable-next-line var-name-mixedcase
    uint64 public CHALLENGE_BOND;
    mapping(ISettlement.Pocket pocket => mapping(address account => uint256)) public given;

    constructor(uint64 challengeBond) {
        CHALLENGE_BOND = challengeBond;
    }

    function give(ISettlement.Pocket to, address account, uint64 amount, uint64) external {
        given[to][account] += amount;
    }
}

/// @notice A judge that only shares out.
contract Splitter is Judge {
    constructor(address purse) Judge(purse) {}

    function split(
        address account,
        uint64 taken,
        address reporter,
        address harmed,
        address[] memory jurors
    ) external {
        _splitSlash(account, taken, reporter, harmed, jurors);
    }
}

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

    function test_Assignments() external {
        for (string memory item; _next("assignments"); ++compared) {
            item = _item("assignments");
            Hashing.Assignment memory assignment = Hashing.Assignment({
                orderHash: _hash(item, "orderHash"),
                unit: uint32(_uint(item, "unit")),
                provider: _address(item, "provider"),
                maxPrice: uint64(_uint(item, "maxPrice")),
                reservedUntil: uint64(_uint(item, "reservedUntil"))
            });
            _assertHashes(item, Hashing.hash(assignment));
        }
        assertTrue(compared > 0, "assignments");
    }

    function test_Acceptances() external {
        for (string memory item; _next("acceptances"); ++compared) {
            item = _item("acceptances");
            _assertHashes(item, Hashing.acceptance(_hash(item, "receiptHash")));
        }
        assertTrue(compared > 0, "acceptances");
    }

    function test_Claims() external {
        for (string memory item; _next("claims"); ++compared) {
            item = _item("claims");
            bytes32 structHash = Hashing.claim(
                _address(item, "payee"),
                _address(item, "to"),
                _uint(item, "nonce"),
                _uint(item, "deadline")
            );
            _assertHashes(item, structHash);
        }
        assertTrue(compared > 0, "claims");
    }

    function test_Leaves() external {
        for (string memory item; _next("leaves"); ++compared) {
            item = _item("leaves");
            assertEq(Hashing.hash(_leaf(item)), _hash(item, "hash"), item);
        }
        assertTrue(compared > 0, "leaves");
    }

    function test_Trees() external {
        for (string memory item; _next("trees"); ++compared) {
            item = _item("trees");
            (bytes32[] memory hashes, uint64[] memory sums) = _pairs(string.concat(item, ".leaves"));
            (bytes32 root, uint64 sum) = Trees.root(hashes, sums);
            assertEq(root, _hash(item, "root"), item);
            assertEq(sum, _uint(item, "sum"), item);
            uint256 i = _uint(item, "index");
            (bytes32[] memory h, uint64[] memory s) = _pairs(string.concat(item, ".path"));
            assertEq(h.length, SumTree.depth(hashes.length), item);
            SumTree.Node memory top = SumTree.Node({hash: hashes[i], sum: sums[i]});
            top = this.climb(top, i, h, s);
            assertEq(top.hash, root, item);
            assertEq(top.sum, sum, item);
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

    function test_JurySeeds() external {
        VM.chainId(_uint(".domain", "chainId"));
        for (string memory item; _next("jurySeeds"); ++compared) {
            item = _item("jurySeeds");
            bytes32 seed = Hashing.jurySeed(
                _address(item, "jury"),
                _uint(item, "case"),
                uint8(_uint(item, "level")),
                _hash(item, "mixHash")
            );
            assertEq(seed, _hash(item, "seed"), item);
        }
        assertTrue(compared > 0, "jurySeeds");
    }

    function test_Commitments() external {
        for (string memory item; _next("commitments"); ++compared) {
            item = _item("commitments");
            ISeeds.Commitment memory commitment = ISeeds.Commitment({
                root: _hash(item, "root"),
                nonceHash: _hash(item, "nonceHash"),
                dataHash: _hash(item, "dataHash"),
                blockNumber: uint64(_uint(item, "blockNumber"))
            });
            VM.roll(commitment.blockNumber);
            uint64 seq =
                settlement.commit(commitment.root, commitment.nonceHash, commitment.dataHash);
            bytes32 kept = settlement.commitmentOf(address(this), seq);
            assertEq(kept, _hash(item, "unseeded"), item);
            bytes32 seeded = keccak256(abi.encode(commitment, _hash(item, "seed")));
            assertEq(seeded, _hash(item, "seeded"), item);
        }
        assertTrue(compared > 0, "commitments");
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

    function test_BatchesAndTheirOpenings() external {
        uint256 opened = 0;
        for (string memory item; _next("batches"); ++compared) {
            item = _item("batches");
            IDisputes.Batch memory batch = _post(item);
            assertEq(settlement.batchOf(COORDINATOR, batch.seq), _hash(item, "commitment"), item);
            string memory list = string.concat(item, ".openings");
            uint256 i = 0;
            for (string memory each; VM.keyExistsJson(json, _element(list, i)); ++i) {
                each = _element(list, i);
                _assertOpens(each, batch);
            }
            opened += i;
        }
        assertTrue(compared > 0 && opened > compared, "batches");
    }

    function test_Faults() external {
        Hashing.Order memory order = _order(".orders[1]");
        for (string memory item; _next("faults"); ++compared) {
            item = _item("faults");
            IDisputes.Place memory place;
            place.coordinator = _address(item, "coordinator");
            place.postedAt = uint64(_uint(item, "postedAt"));
            place.requester = _address(item, "requester");
            place.payee = _address(item, "payee");
            IDisputes.LeafFault fault = this.findFault(place, _leaf(item), order);
            assertEq(uint256(fault), _uint(item, "fault"), item);
        }
        assertTrue(compared > 0, "faults");
    }

    function test_Slashes() external {
        for (string memory item; _next("slashes"); ++compared) {
            item = _item("slashes");
            Purse purse = new Purse(uint64(_uint(item, "challengeBond")));
            address[] memory jurors = new address[](_uint(item, "jurors"));
            for (uint256 i = 0; i < jurors.length; ++i) {
                jurors[i] = address(uint160(0x10000 + i));
            }
            address harmed = _uint(item, "harmed") == 0 ? address(0) : ALICE;
            uint64 taken = uint64(_uint(item, "taken"));
            new Splitter(address(purse)).split(COORDINATOR, taken, BOB, harmed, jurors);
            ISettlement.Pocket credit = ISettlement.Pocket.CREDIT;
            assertEq(purse.given(credit, BOB), _uint(item, "toReporter"), item);
            uint256 toHarmed = purse.given(ISettlement.Pocket.ESCROW, ALICE);
            assertEq(toHarmed, _uint(item, "toHarmed"), item);
            for (uint256 i = 0; i < jurors.length; ++i) {
                assertEq(purse.given(credit, jurors[i]), _uint(item, "toEachJuror"), item);
            }
            uint256 burnt = purse.given(ISettlement.Pocket.BURNT, COORDINATOR);
            assertEq(burnt, _uint(item, "burnt"), item);
        }
        assertTrue(compared > 0, "slashes");
    }

    /// @dev External, because orders and leaves are read from calldata.
    function findFault(
        IDisputes.Place memory place,
        Hashing.Leaf calldata leaf,
        Hashing.Order calldata order
    ) external pure returns (IDisputes.LeafFault) {
        return LeafFaults.find(place, leaf, order);
    }

    /// @dev External, because paths are read from calldata.
    function climb(
        SumTree.Node memory top,
        uint256 index,
        bytes32[] calldata hashes,
        uint64[] calldata sums
    ) external pure returns (SumTree.Node memory) {
        SumTree.climb(top, index, hashes.length, hashes, sums, 0);
        return top;
    }

    /// @dev External, because headers are read from calldata.
    function readMixHash(bytes calldata rlp) external pure returns (bytes32) {
        return Header.mixHash(rlp);
    }

    /* BATCHES */

    /// @dev Posts a batch by COORDINATOR, at the time that the vector says.
    function _post(string memory item) internal returns (IDisputes.Batch memory batch) {
        batch.coordinator = COORDINATOR;
        batch.postedAt = uint64(_uint(item, "postedAt"));
        batch.dataHash = _hash(item, "dataHash");
        batch.root = _hash(item, "root");
        batch.requesters = VM.parseJsonAddressArray(json, string.concat(item, ".requesters"));
        batch.payees = VM.parseJsonAddressArray(json, string.concat(item, ".payees"));
        batch.lanes = VM.parseJsonBytes(json, string.concat(item, ".lanes"));
        _bond(COORDINATOR, MIN_BOND);
        for (uint256 i = 0; i < batch.requesters.length; ++i) {
            _deposit(batch.requesters[i], 1e6);
        }
        VM.warp(batch.postedAt);
        VM.prank(COORDINATOR);
        batch.seq = settlement.postBatch(
            NEVER, batch.dataHash, batch.root, batch.requesters, batch.payees, batch.lanes
        );
    }

    function _assertOpens(string memory item, IDisputes.Batch memory batch) internal {
        IDisputes.Opening memory opening;
        opening.lane = uint16(_uint(item, "lane"));
        opening.index = uint32(_uint(item, "index"));
        opening.leaf = _leaf(item);
        (opening.hashes, opening.sums) = _pairs(string.concat(item, ".path"));
        // What only opens a leaf and tells its place is what a case begins with.
        VM.prank(address(jury));
        IDisputes.Place memory place = disputes.holdForJury(batch, opening);
        assertEq(place.requester, _address(item, "requester"), item);
        assertEq(place.payee, _address(item, "payee"), item);
        assertEq(place.laneAmount, _uint(item, "laneAmount"), item);
    }

    /* READING */

    function _leaf(string memory item) internal view returns (Hashing.Leaf memory) {
        return Hashing.Leaf({
            orderHash: _hash(item, "orderHash"),
            line: uint32(_uint(item, "line")),
            evidenceHash: _hash(item, "evidenceHash"),
            price: uint64(_uint(item, "price"))
        });
    }

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
