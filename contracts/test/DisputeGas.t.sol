// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.37;

import {IDisputes} from "../src/interfaces/IDisputes.sol";
import {IJury} from "../src/interfaces/IJury.sol";
import {Hashing} from "../src/libraries/Hashing.sol";
import {Scene} from "./Scene.sol";
import {VM} from "./Vm.sol";

/// @notice Gas of whole transactions of disputes, over a batch of 100 lanes; docs/economics.md sizes
/// bonds by it.
/// @dev Isolated, as in Gas.t.sol. Accounts that are paid have no credit yet: the dear case.
/// forge-config: default.isolate = true
/// forge-config: long.isolate = true
contract DisputeGasTest is Scene {
    string internal constant GROUP = "Disputes";
    uint32 internal constant VERIFIERS = 40;

    address internal requester;
    address internal provider;
    address internal coordinator;
    address internal watcher;
    address[] internal verifiers;
    Hashing.Order internal order;
    Hashing.Receipt internal receipt;

    function setUp() public override {
        super.setUp();
        requester = _account("requester");
        provider = _account("provider");
        coordinator = _account("coordinator");
        watcher = _account("watcher");
        _deposit(requester, 1_000e6);
        _deposit(watcher, 500e6);
        _bond(coordinator, MIN_BOND);
        _stakeProvider(provider, COLD, 2 * MIN_STAKE);
        for (uint32 i = 0; i < VERIFIERS; ++i) {
            address verifier = _account(string.concat("verifier ", VM.toString(i)));
            verifiers.push(verifier);
            _fund(verifier, MIN_STAKE);
            VM.prank(verifier);
            settlement.stakeVerifier(MIN_STAKE, verifier, PEER);
        }
        VM.warp(START + EPOCH);
        order = _order(requester, coordinator);
        receipt = _receipt(order, 0, provider, UNIT_PRICE);
    }

    function test_Leaf() external {
        (Draft memory draft, IDisputes.Batch memory batch) = _postMany(_workLeaf(receipt));
        IDisputes.Opening memory opening = _open(draft, 0, 0);
        bytes memory data = abi.encodeCall(disputes.challengeLeaf, (batch, opening));
        _run("challengeLeaf", watcher, address(disputes), data);
        IDisputes.Challenge memory challenge =
            _challenge(draft, batch, Hashing.hash(opening.leaf), opening.leaf.price);
        data = abi.encodeCall(
            disputes.respond, (1, challenge, opening.leaf, _workEvidence(order, receipt))
        );
        _run("respond", coordinator, address(disputes), data);
    }

    function test_Withheld() external {
        (Draft memory draft, IDisputes.Batch memory batch) = _postMany(_workLeaf(receipt));
        bytes memory ask = abi.encodeCall(disputes.challengeWithheld, (batch, 0, 0));
        _run("challengeWithheld", watcher, address(disputes), ask);
        IDisputes.Challenge memory challenge = _challenge(draft, batch, 0, 0);
        bytes memory data = abi.encodeCall(
            disputes.respondWithheld,
            (1, challenge, batch, _open(draft, 0, 0), _workEvidence(order, receipt))
        );
        _run("respondWithheld", coordinator, address(disputes), data);
    }

    function test_Timeout() external {
        (Draft memory draft, IDisputes.Batch memory batch) = _postMany(_workLeaf(receipt));
        VM.prank(watcher);
        disputes.challengeWithheld(batch, 0, 0);
        IDisputes.Challenge memory challenge = _challenge(draft, batch, 0, 0);
        VM.warp(START + EPOCH + RESPONSE + 1);
        bytes memory data = abi.encodeCall(disputes.timeout, (1, challenge));
        _run("timeout", watcher, address(disputes), data);
    }

    function test_BadLeaf() external {
        receipt.price = UNIT_PRICE + 1;
        (Draft memory draft, IDisputes.Batch memory batch) = _postMany(_workLeaf(receipt));
        bytes memory data =
            abi.encodeCall(disputes.proveBadLeaf, (batch, _open(draft, 0, 0), order));
        _run("proveBadLeaf", watcher, address(disputes), data);
    }

    function test_Direct() external {
        order.provider = provider;
        receipt = _receipt(order, 0, provider, UNIT_PRICE);
        VM.warp(uint256(order.settleBy) + 1);
        Hashing.Assignment memory none;
        bytes memory accepted = _sign(requester, Hashing.acceptance(Hashing.hash(receipt)));
        bytes memory data = abi.encodeCall(
            disputes.settleDirect, (_workEvidence(order, receipt), none, bytes(""), accepted)
        );
        _run("settleDirect", provider, address(disputes), data);
    }

    function test_ConvictedByFive() external {
        _accuse();
        address[] memory jurors = _seat("seatJury of 5", 0);
        _decide("decide by 5", jurors, 5, 2);
        VM.warp(VM.getBlockTimestamp() + RESPONSE + 1);
        bytes memory data = abi.encodeCall(jury.close, (1, jurors));
        _run("close, convicted by 5", watcher, address(jury), data);
    }

    function test_Receipt() external {
        bytes memory signature = _sign(provider, Hashing.hash(receipt));
        bytes memory data =
            abi.encodeCall(jury.accuseReceipt, (order, receipt, signature, VERIFIERS));
        _run("accuseReceipt", watcher, address(jury), data);
        address[] memory jurors = _seat("", 0);
        _decide("", jurors, 5, 2);
        VM.warp(VM.getBlockTimestamp() + RESPONSE + 1);
        data = abi.encodeCall(jury.close, (1, jurors));
        _run("close, convicted by 5, of a receipt", watcher, address(jury), data);
    }

    function test_AcquittedByThirtyOne() external {
        _accuse();
        for (uint8 level = 0; level < 2; ++level) {
            _seat("", level);
            VM.warp(VM.getBlockTimestamp() + RESPONSE + 1);
            bytes memory raise = abi.encodeCall(jury.escalate, (1));
            _run("escalate", watcher, address(jury), raise);
        }
        address[] memory jurors = _seat("seatJury of 31", 2);
        _decide("decide by 16 of 31", jurors, 16, 1);
        address[] memory voters = new address[](16);
        for (uint256 i = 0; i < 16; ++i) {
            voters[i] = jurors[i];
        }
        bytes memory data = abi.encodeCall(jury.close, (1, voters));
        _run("close, acquitted by 16 of 31", watcher, address(jury), data);
    }

    /* INTERNAL: TRANSACTIONS */

    /// @dev Calls from `sender`, checks success, and records the gas if there is a name for it.
    function _run(string memory name, address sender, address target, bytes memory data) internal {
        VM.prank(sender);
        (bool ok,) = target.call(data);
        assertTrue(ok, name);
        if (bytes(name).length != 0) VM.snapshotGasLastCall(GROUP, name);
    }

    function _accuse() internal {
        (Draft memory draft, IDisputes.Batch memory batch) = _postMany(_workLeaf(receipt));
        bytes memory signature = _sign(provider, Hashing.hash(receipt));
        bytes memory data =
            abi.encodeCall(jury.accuse, (batch, _open(draft, 0, 0), receipt, signature, VERIFIERS));
        _run("accuse", watcher, address(jury), data);
    }

    /// @dev Seats the jury from a later block; returns it as the contract draws it.
    function _seat(string memory name, uint8 level) internal returns (address[] memory jurors) {
        bytes32 mixHash = keccak256(abi.encode("randomness", level));
        uint256 seedBlock = uint256(jury.caseOf(1).drawBlock) + SEED_DELAY;
        VM.roll(seedBlock + 1);
        VM.setBlockhash(seedBlock, keccak256(_header(mixHash)));
        bytes memory data = abi.encodeCall(jury.seatJury, (1, _header(mixHash)));
        _run(name, watcher, address(jury), data);
        bytes32 seed = Hashing.jurySeed(address(jury), 1, level, mixHash);
        jurors = new address[](level == 0 ? 5 : level == 1 ? 15 : 31);
        uint256 seated = 0;
        for (uint256 i = 0; seated < jurors.length; ++i) {
            address drawn = verifiers[uint256(keccak256(abi.encode(seed, i))) % VERIFIERS];
            bool isNew = true;
            for (uint256 j = 0; j < seated; ++j) {
                isNew = isNew && jurors[j] != drawn;
            }
            if (isNew) jurors[seated++] = drawn;
        }
    }

    function _decide(string memory name, address[] memory jurors, uint8 count, uint8 verdict)
        internal
    {
        IJury.Vote[] memory votes = new IJury.Vote[](count);
        for (uint8 i = 0; i < count; ++i) {
            Hashing.Attestation memory attestation = _attestation(receipt, verdict);
            bytes memory signature = _sign(jurors[i], Hashing.hash(attestation));
            votes[i] = IJury.Vote({seat: i, attestation: attestation, signature: signature});
        }
        bytes memory data = abi.encodeCall(jury.decide, (1, jurors, votes));
        _run(name, watcher, address(jury), data);
    }

    /* INTERNAL: BATCHES */

    /// @dev 100 lanes of 5 requesters and 20 payees; `leaf` is the first of the first, of four.
    function _postMany(Hashing.Leaf memory leaf)
        internal
        returns (Draft memory draft, IDisputes.Batch memory batch)
    {
        draft.requesters = new address[](5);
        draft.payees = new address[](20);
        for (uint160 i = 0; i < 20; ++i) {
            draft.payees[i] = address(uint160(uint256(keccak256(abi.encode("payee", i)))));
            if (i >= 5) continue;
            draft.requesters[i] = address(uint160(uint256(keccak256(abi.encode("payer", i)))));
            _deposit(draft.requesters[i], 1e12);
        }
        (draft.requesters[0], draft.payees[0]) = (requester, provider);
        draft.lanes = new LaneDraft[](100);
        for (uint16 i = 0; i < 100; ++i) {
            Hashing.Leaf[] memory leaves = new Hashing.Leaf[](4);
            for (uint32 j = 0; j < 4; ++j) {
                leaves[j] = Hashing.Leaf(keccak256("order"), j, keccak256(abi.encode(i, j)), 1);
            }
            if (i == 0) leaves[0] = leaf;
            draft.lanes[i] = LaneDraft({requester: i / 20, payee: i % 20, leaves: leaves});
        }
        batch = _post(coordinator, draft);
    }

    function _challenge(
        Draft memory draft,
        IDisputes.Batch memory batch,
        bytes32 leafHash,
        uint64 price
    ) internal view returns (IDisputes.Challenge memory) {
        return IDisputes.Challenge({
            place: _place(batch, draft, 0, 0),
            leafHash: leafHash,
            price: price,
            challenger: watcher,
            deadline: uint64(VM.getBlockTimestamp()) + RESPONSE
        });
    }
}
