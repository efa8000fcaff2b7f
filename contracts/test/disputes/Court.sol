// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.37;

import {IDisputes} from "../../src/interfaces/IDisputes.sol";
import {IJury} from "../../src/interfaces/IJury.sol";
import {Hashing} from "../../src/libraries/Hashing.sol";
import {TestToken} from "../../src/mocks/TestToken.sol";
import {Scene} from "../Scene.sol";
import {VM} from "../Vm.sol";

/// @notice A market with verifiers and one batch of a provider's work, three leaves in one lane; and
/// what a case about it needs. The draw is computed here a second time, from the tests' own knowledge
/// of who may judge.
abstract contract Court is Scene {
    uint8 internal constant MATCH = 1;
    uint8 internal constant MISMATCH = 2;
    uint8 internal constant INCONCLUSIVE = 3;
    uint64 internal constant FUNDS = 1_000e6;

    address internal requester;
    address internal coordinator;
    address internal provider;
    address internal accuser;
    address[] internal verifiers;
    /// @dev Who must not be drawn, as far as the test knows.
    mapping(address => bool) internal unfit;

    Hashing.Order internal order;
    Hashing.Receipt[] internal receipts;
    IDisputes.Batch internal batch;
    uint64 internal postedAt;
    uint32 internal eligible;

    function setUp() public virtual override {
        _begin(40);
    }

    /* SET-UP */

    /// @dev A new market whose `count` verifiers were listed exactly an epoch before the batch.
    function _begin(uint256 count) internal {
        VM.warp(START);
        VM.roll(1000);
        token = new TestToken();
        _deploy(_config(address(token)));
        _beginParties();
        delete verifiers;
        for (uint256 i = 0; i < count; ++i) {
            verifiers.push(_addVerifier(i));
        }
        eligible = uint32(count);
        VM.warp(START + EPOCH);
        _beginBatch();
    }

    function _beginParties() private {
        requester = _account("requester");
        coordinator = _account("coordinator");
        provider = _account("provider");
        accuser = _account("accuser");
        _bond(coordinator, MIN_BOND);
        _deposit(requester, FUNDS);
        _deposit(accuser, FUNDS);
        _stakeProvider(provider, COLD, MIN_STAKE);
    }

    function _beginBatch() private {
        order = _order(requester, coordinator);
        delete receipts;
        for (uint32 i = 0; i < 3; ++i) {
            receipts.push(_receipt(order, i, provider, UNIT_PRICE - i));
        }
        batch = _post(coordinator, _work());
        postedAt = batch.postedAt;
    }

    function _addVerifier(uint256 i) internal returns (address verifier) {
        verifier = _account(string.concat("verifier ", VM.toString(i)));
        _stakeVerifier(verifier, _payout(i), MIN_STAKE);
    }

    function _stakeVerifier(address account, address payout, uint256 amount) internal {
        _fund(account, amount);
        VM.prank(account);
        settlement.stakeVerifier(amount, payout, PEER);
    }

    function _payout(uint256 i) internal pure returns (address) {
        return address(uint160(0xC01D0000 + i));
    }

    /// @dev The batch: one lane of work.
    function _work() internal view returns (Draft memory) {
        Hashing.Leaf[] memory leaves = new Hashing.Leaf[](receipts.length);
        for (uint256 i = 0; i < leaves.length; ++i) {
            leaves[i] = _workLeaf(receipts[i]);
        }
        return _draft(requester, provider, leaves);
    }

    /* ACCUSING */

    function _accuse(uint32 index) internal returns (uint256) {
        return _accuseBy(accuser, index);
    }

    function _accuseBy(address account, uint32 index) internal returns (uint256) {
        bytes memory call_ = _accuseCall(index, eligible);
        return abi.decode(_must(account, call_), (uint256));
    }

    function _accuseCall(uint32 index, uint32 count) internal view returns (bytes memory) {
        Hashing.Receipt memory receipt = receipts[index];
        bytes memory signature = _sign(provider, Hashing.hash(receipt));
        IDisputes.Opening memory opening = _open(_work(), 0, index);
        return abi.encodeCall(jury.accuse, (batch, opening, receipt, signature, count));
    }

    /* SEATING */

    function _mix(uint256 id) internal view returns (bytes32) {
        return keccak256(abi.encode("mix", id, jury.caseOf(id).level));
    }

    /// @dev Seats the present level's jury and checks it against the second computation.
    function _seat(uint256 id) internal returns (address[] memory) {
        return _seatBy(id, _mix(id));
    }

    function _seatBy(uint256 id, bytes32 mix) internal returns (address[] memory jurors) {
        bytes memory header = _reachSeedBlock(id, mix);
        jurors = _drawn(id, mix);
        jury.seatJury(id, header);
        assertEq(jury.caseOf(id).juryHash, keccak256(abi.encode(jurors)), "jury as computed");
    }

    /// @dev Rolls to the first block in which the jury can be seated.
    function _reachSeedBlock(uint256 id, bytes32 mix) internal returns (bytes memory header) {
        uint256 number = jury.caseOf(id).drawBlock + SEED_DELAY;
        VM.roll(number + 1);
        header = _header(mix);
        VM.setBlockhash(number, keccak256(header));
    }

    function _drawn(uint256 id, bytes32 mix) internal view returns (address[] memory) {
        uint8 level = jury.caseOf(id).level;
        bytes32 seed = keccak256(
            abi.encode(keccak256("gpumarket.jury.v1"), block.chainid, jury, id, level, mix)
        );
        uint256 size = _least(level == 0 ? 5 : level == 1 ? 15 : 31, eligible);
        address[] memory found = new address[](size);
        uint256 count = 0;
        for (uint256 i = 0; i < 256 && count < size; ++i) {
            address drawn = verifiers[uint256(keccak256(abi.encode(seed, i))) % eligible];
            if (!unfit[drawn] && !_isAmong(found, drawn)) found[count++] = drawn;
        }
        return _first(found, count);
    }

    /* DECIDING */

    /// @dev Votes of the first `count` jurors.
    function _votes(uint256 id, address[] memory jurors, uint256 count, uint8 verdict)
        internal
        view
        returns (IJury.Vote[] memory votes)
    {
        votes = new IJury.Vote[](count);
        for (uint256 i = 0; i < count; ++i) {
            votes[i] = _vote(id, jurors[i], uint8(i), verdict);
        }
    }

    function _vote(uint256 id, address juror, uint8 seat, uint8 verdict)
        internal
        view
        returns (IJury.Vote memory vote)
    {
        vote.seat = seat;
        vote.attestation = Hashing.Attestation({
            receiptHash: jury.caseOf(id).receiptHash,
            verdict: verdict,
            evidenceHash: keccak256("traces"),
            issuedAt: uint64(VM.getBlockTimestamp())
        });
        vote.signature = _sign(juror, Hashing.hash(vote.attestation));
    }

    /// @dev Seats a jury and lets as many as a quorum needs vote; returns those.
    function _judge(uint256 id, uint8 verdict) internal returns (address[] memory voters) {
        address[] memory jurors = _seat(id);
        uint256 count = _quorum(jury.caseOf(id).level, jurors.length);
        jury.decide(id, jurors, _votes(id, jurors, count, verdict));
        return _first(jurors, count);
    }

    /// @dev The table of docs/protocol, not the formula.
    function _quorum(uint8 level, uint256 size) internal pure returns (uint256) {
        if (level == 0) return size;
        if (level == 2) return size == 0 ? 0 : (size + 2) / 2;
        uint256 quorum = 0;
        while (3 * quorum < 2 * size) ++quorum;
        return quorum;
    }

    /* CLOSING */

    function _close(uint256 id, address[] memory voters) internal {
        VM.warp(VM.getBlockTimestamp() + RESPONSE + 1);
        jury.close(id, voters);
    }

    function _noVoters() internal pure returns (address[] memory) {
        return new address[](0);
    }

    /// @dev Lets the level's time pass with nobody voting.
    function _letLapse(uint256 id) internal {
        _seat(id);
        VM.warp(VM.getBlockTimestamp() + RESPONSE + 1);
    }

    /* MONEY */

    function _escrow(address account) internal view returns (uint256) {
        return settlement.requesterOf(account).balance;
    }

    function _stakeOf(address account) internal view returns (uint256) {
        return settlement.operatorOf(account).stake;
    }

    /// @dev Credit that can be claimed now.
    function _ready(address account) internal view returns (uint256) {
        return settlement.payeeOf(account).available;
    }

    /// @dev Credit that still matures.
    function _maturing(address account) internal view returns (uint256) {
        return uint256(settlement.payeeOf(account).prev) + settlement.payeeOf(account).cur;
    }

    /// @dev All credit, old and young.
    function _credit(address account) internal view returns (uint256) {
        return _ready(account) + _maturing(account);
    }

    /// @dev What the batch moved.
    function _total() internal view returns (uint256 total) {
        for (uint256 i = 0; i < receipts.length; ++i) {
            total += receipts[i].price;
        }
    }

    function _leaf(uint32 index) internal view returns (IDisputes.LeafRecord memory) {
        return disputes.leafOf(batch.coordinator, batch.seq, 0, index);
    }

    /* VOIDING BY OTHER MEANS */

    function _challenge(uint32 index)
        internal
        returns (uint256 id, IDisputes.Challenge memory challenge)
    {
        _deposit(STRANGER, CHALLENGE_BOND);
        bytes memory call_ =
            abi.encodeCall(disputes.challengeLeaf, (batch, _open(_work(), 0, index)));
        id = abi.decode(_must(STRANGER, address(disputes), call_), (uint256));
        challenge = IDisputes.Challenge({
            place: _place(batch, _work(), 0, index),
            leafHash: Hashing.hash(_workLeaf(receipts[index])),
            price: receipts[index].price,
            challenger: STRANGER,
            deadline: uint64(VM.getBlockTimestamp()) + RESPONSE
        });
    }

    /// @dev A challenge that nobody answers.
    function _voidByChallenge(uint32 index) internal {
        (uint256 id, IDisputes.Challenge memory challenge) = _challenge(index);
        VM.warp(VM.getBlockTimestamp() + RESPONSE + 1);
        disputes.timeout(id, challenge);
    }

    /// @dev Leaf 1 is asked for, and nobody shows it.
    function _voidLane() internal {
        _deposit(STRANGER, CHALLENGE_BOND);
        bytes memory call_ = abi.encodeCall(disputes.challengeWithheld, (batch, 0, 1));
        uint256 id = abi.decode(_must(STRANGER, address(disputes), call_), (uint256));
        IDisputes.Challenge memory challenge = IDisputes.Challenge({
            place: _place(batch, _work(), 0, 1),
            leafHash: 0,
            price: 0,
            challenger: STRANGER,
            deadline: uint64(VM.getBlockTimestamp()) + RESPONSE
        });
        VM.warp(VM.getBlockTimestamp() + RESPONSE + 1);
        disputes.timeout(id, challenge);
    }

    /* HELPERS */

    function _must(address account, bytes memory call_) internal returns (bytes memory answer) {
        return _must(account, address(jury), call_);
    }

    function _must(address account, address target, bytes memory call_)
        internal
        returns (bytes memory answer)
    {
        bool ok;
        VM.prank(account);
        (ok, answer) = target.call(call_);
        if (ok) return answer;
        assembly ("memory-safe") {
            revert(add(answer, 32), mload(answer))
        }
    }

    /// @dev The call must fail with exactly this.
    function _refuse(bytes memory call_, bytes memory expected) internal {
        _refuseBy(accuser, address(jury), call_, expected);
    }

    function _refuseBy(address account, address target, bytes memory call_, bytes memory expected)
        internal
    {
        VM.prank(account);
        (bool ok, bytes memory answer) = target.call(call_);
        assertTrue(!ok, "was not refused");
        if (keccak256(answer) == keccak256(expected)) return;
        // Show what came instead.
        assembly ("memory-safe") {
            revert(add(answer, 32), mload(answer))
        }
    }

    function _first(address[] memory list, uint256 count)
        internal
        pure
        returns (address[] memory cut)
    {
        cut = new address[](count);
        for (uint256 i = 0; i < count; ++i) {
            cut[i] = list[i];
        }
    }

    function _isAmong(address[] memory list, address account) internal pure returns (bool) {
        for (uint256 i = 0; i < list.length; ++i) {
            if (list[i] == account) return true;
        }
        return false;
    }

    function _least(uint256 a, uint256 b) internal pure returns (uint256) {
        return a < b ? a : b;
    }
}
