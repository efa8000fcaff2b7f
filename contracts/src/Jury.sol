// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {Judge} from "./disputes/Judge.sol";
import {IDisputes} from "./interfaces/IDisputes.sol";
import {IJury} from "./interfaces/IJury.sol";
import {ISettlement} from "./interfaces/ISettlement.sol";
import {ErrorsLib} from "./libraries/ErrorsLib.sol";
import {EventsLib} from "./libraries/EventsLib.sol";
import {Hashing} from "./libraries/Hashing.sol";
import {SeedBlock} from "./libraries/SeedBlock.sol";

/// @title Jury
/// @notice Whether signed work is false: decided by verifiers that nobody could choose.
/// @dev See IJury. A conviction needs signatures of a quorum that was drawn; without one, at the last level,
/// everything goes back. Jurors vote blind to each other off chain (docs/protocol); what counts here
/// is who was drawn and what they signed.
contract Jury is IJury, Judge {
    using Hashing for Hashing.Order;
    using Hashing for Hashing.Receipt;
    using Hashing for Hashing.Attestation;

    /* CONSTANTS */

    uint8 internal constant LAST_LEVEL = 2;
    /// @dev Draws before a jury stays smaller: duplicates and those who left are drawn again. As many
    /// for a small jury as for the largest, or leaving verifiers behind in the list would shrink it.
    uint256 internal constant DRAWS_MAX = 256;

    /* STORAGE */

    uint256 private _caseCount;
    mapping(uint256 id => Case) private _cases;
    mapping(bytes32 receiptHash => Trial) private _trials;
    mapping(address operator => uint64) private _owed;

    /* CONSTRUCTOR */

    constructor(address settlement) Judge(settlement) {}

    /* ACTIONS */

    /// @inheritdoc IJury
    function accuse(
        IDisputes.Batch calldata batch,
        IDisputes.Opening calldata opening,
        Hashing.Receipt calldata receipt,
        bytes calldata receiptSignature,
        uint32 eligible
    ) external returns (uint256 id) {
        IDisputes.Place memory place = _SETTLEMENT.DISPUTES().holdForJury(batch, opening);
        bytes32 receiptHash = receipt.hash();
        _checkHash("receipt", opening.leaf.evidenceHash, receiptHash);
        _checkHash("receipt.orderHash", opening.leaf.orderHash, receipt.orderHash);
        _checkSame("provider", place.payee, receipt.provider);
        _checkSigner(receipt.provider, receiptHash, receiptSignature);
        id = ++_caseCount;
        Case storage case_ = _cases[id];
        (case_.isPosted, case_.price) = (true, opening.leaf.price);
        _openCase(id, place, receiptHash, eligible);
    }

    /// @inheritdoc IJury
    function accuseReceipt(
        Hashing.Order calldata order,
        Hashing.Receipt calldata receipt,
        bytes calldata receiptSignature,
        uint32 eligible
    ) external returns (uint256 id) {
        bytes32 receiptHash = receipt.hash();
        _checkHash("receipt.orderHash", order.hash(), receipt.orderHash);
        if (receipt.unit >= order.units) revert ErrorsLib.BadIndex(order.units, receipt.unit);
        _checkNotLate(order.expiry);
        _checkSigner(receipt.provider, receiptHash, receiptSignature);
        Trial storage trial = _trials[receiptHash];
        if (trial.isOver) revert ErrorsLib.AlreadyJudged();
        if (trial.id != 0) revert ErrorsLib.AlreadyDisputed();
        id = ++_caseCount;
        trial.id = uint64(id);
        // No batch has it: as if it had been posted now.
        IDisputes.Place memory place = IDisputes.Place({
            coordinator: order.coordinator,
            seq: 0,
            postedAt: uint64(block.timestamp),
            lane: 0,
            index: 0,
            requester: order.requester,
            payee: receipt.provider,
            laneAmount: 0
        });
        _openCase(id, place, receiptHash, eligible);
    }

    /// @inheritdoc IJury
    function seatJury(uint256 id, bytes calldata headerRLP) external {
        Case storage case_ = _case(id);
        if (case_.juryHash != 0) revert ErrorsLib.AlreadySeated();
        uint64 seedBlock = case_.drawBlock + _SETTLEMENT.SEED_DELAY();
        bytes32 mixHash = SeedBlock.mixHash(seedBlock, headerRLP);
        bytes32 seed = Hashing.jurySeed(address(this), id, case_.level, mixHash);
        address[] memory jury = _drawJury(case_, seed);
        uint64 deadline = uint64(block.timestamp) + _SETTLEMENT.RESPONSE();
        case_.juryHash = keccak256(abi.encode(jury));
        case_.deadline = deadline;
        emit EventsLib.JurySeated(id, case_.level, seedBlock, seed, jury, deadline);
    }

    /// @inheritdoc IJury
    function redraw(uint256 id) external {
        Case storage case_ = _case(id);
        if (case_.juryHash != 0) revert ErrorsLib.AlreadySeated();
        uint256 seedBlock = uint256(case_.drawBlock) + _SETTLEMENT.SEED_DELAY();
        if (!SeedBlock.isTooOld(seedBlock)) {
            revert ErrorsLib.TooEarly(seedBlock + SeedBlock.HISTORY_WINDOW + 1, block.number);
        }
        case_.drawBlock = uint64(block.number);
        emit EventsLib.JuryRedrawn(id, uint64(block.number));
    }

    /// @inheritdoc IJury
    function decide(uint256 id, address[] calldata jury, Vote[] calldata votes) external {
        Case storage case_ = _case(id);
        if (case_.juryHash == 0) revert ErrorsLib.NotSeated();
        _checkHash("jury", case_.juryHash, keccak256(abi.encode(jury)));
        if (case_.verdict != 0) revert ErrorsLib.AlreadyJudged();
        _checkNotLate(case_.deadline);
        uint256 quorum = _quorum(case_.level, jury.length);
        if (quorum == 0 || votes.length < quorum) revert ErrorsLib.NoQuorum(quorum, votes.length);
        (uint8 verdict, address[] memory voters) = _count(case_.receiptHash, jury, votes);
        case_.verdict = verdict;
        if (!case_.isPosted) _trials[case_.receiptHash].verdict = verdict;
        case_.votersHash = keccak256(abi.encode(voters));
        // Of the last verdict there is no appeal.
        uint64 wait = case_.level == LAST_LEVEL ? 0 : _SETTLEMENT.RESPONSE();
        case_.deadline = uint64(block.timestamp) + wait;
        emit EventsLib.Decided(id, case_.level, verdict, voters, case_.deadline);
    }

    /// @inheritdoc IJury
    function appeal(uint256 id) external {
        Case storage case_ = _case(id);
        if (case_.verdict == 0) revert ErrorsLib.NotDecided();
        if (case_.level == LAST_LEVEL) revert ErrorsLib.NoFurtherLevel();
        _checkNotLate(case_.deadline);
        uint64 amount = _SETTLEMENT.JURY_BOND() << (case_.level + 1);
        _takeBond(amount);
        // Whoever appeals is against the verdict.
        bool accuses = case_.verdict == MATCH;
        case_.parties.push(Party({account: msg.sender, bond: amount, accuses: accuses}));
        emit EventsLib.Appealed(id, case_.level + 1, msg.sender, amount);
        _raise(case_);
    }

    /// @inheritdoc IJury
    function escalate(uint256 id) external {
        Case storage case_ = _case(id);
        if (case_.juryHash == 0) revert ErrorsLib.NotSeated();
        if (case_.verdict != 0) revert ErrorsLib.AlreadyJudged();
        if (case_.level == LAST_LEVEL) revert ErrorsLib.NoFurtherLevel();
        _checkOver(case_.deadline);
        emit EventsLib.Escalated(id, case_.level + 1);
        _raise(case_);
    }

    /// @inheritdoc IJury
    function close(uint256 id, address[] calldata voters) external {
        Case storage case_ = _case(id);
        _checkClosable(case_);
        Case memory closed = case_;
        uint8 verdict = closed.verdict;
        if (verdict != 0) {
            _checkHash("voters", closed.votersHash, keccak256(abi.encode(voters)));
        }
        delete _cases[id];
        emit EventsLib.CaseClosed(id, closed.place.payee, verdict);
        if (closed.isPosted) _SETTLEMENT.DISPUTES().endHold(closed.place, closed.price, verdict);
        else if (verdict != 0) _trials[closed.receiptHash].isOver = true;
        else delete _trials[closed.receiptHash];
        if (verdict == MISMATCH) _convict(closed, voters);
        else if (verdict == MATCH) _acquit(closed, voters);
        else _dismiss(closed);
    }

    /* VIEWS */

    /// @inheritdoc IJury
    function caseOf(uint256 id) external view returns (Case memory) {
        return _cases[id];
    }

    /// @inheritdoc IJury
    function trialOf(bytes32 receiptHash) external view returns (Trial memory) {
        return _trials[receiptHash];
    }

    /// @inheritdoc IJury
    function owedBy(address operator) external view returns (uint64) {
        return _owed[operator];
    }

    /* INTERNAL: OPENING */

    /// @dev What every new case has; holds bond and stake.
    function _openCase(
        uint256 id,
        IDisputes.Place memory place,
        bytes32 receiptHash,
        uint32 eligible
    ) private {
        _checkEligible(eligible, place.postedAt);
        uint64 bond = _SETTLEMENT.JURY_BOND();
        _takeBond(bond);
        Case storage case_ = _cases[id];
        case_.place = place;
        case_.receiptHash = receiptHash;
        case_.stakeHeld = _take(ISettlement.Pocket.STAKE, place.payee, _SETTLEMENT.STAKE_SLASH(), 0);
        case_.eligible = eligible;
        case_.drawBlock = uint64(block.number);
        case_.parties.push(Party({account: msg.sender, bond: bond, accuses: true}));
        emit EventsLib.CaseOpened(id, place.payee, msg.sender, case_);
    }

    /* INTERNAL: DRAWING */

    /// @dev `eligible` is exactly how many verifiers were listed an epoch before the batch, or the
    /// accusation of what is in none: later ones could have come to judge it.
    function _checkEligible(uint32 eligible, uint64 postedAt) private view {
        uint256 count = _SETTLEMENT.verifierCount();
        uint64 latest = postedAt - _SETTLEMENT.EPOCH();
        bool isEnough = eligible <= count;
        if (isEnough && eligible != 0) {
            (, uint64 listedAt) = _SETTLEMENT.verifierAt(eligible - 1);
            isEnough = listedAt <= latest;
        }
        if (isEnough && eligible != count) {
            (, uint64 listedAt) = _SETTLEMENT.verifierAt(eligible);
            isEnough = listedAt > latest;
        }
        if (!isEnough) revert ErrorsLib.WrongEligible(count, eligible);
    }

    /// @dev Distinct verifiers that have been staked for an epoch before the batch and have no part
    /// in it, in the order drawn.
    function _drawJury(Case storage case_, bytes32 seed)
        private
        view
        returns (address[] memory jury)
    {
        uint256 size = _size(case_.level);
        uint256 eligible = case_.eligible;
        if (size > eligible) size = eligible;
        jury = new address[](size);
        uint256 seated = 0;
        for (uint256 i = 0; i < DRAWS_MAX && seated < size; ++i) {
            uint256 drawn = uint256(keccak256(abi.encode(seed, i))) % eligible;
            (address juror,) = _SETTLEMENT.verifierAt(drawn);
            if (_contains(jury, seated, juror) || !_mayJudge(juror, case_.place)) continue;
            jury[seated++] = juror;
        }
        // Fewer were found: cut the array to them.
        assembly ("memory-safe") {
            mstore(jury, seated)
        }
    }

    function _mayJudge(address juror, IDisputes.Place memory place) private view returns (bool) {
        ISettlement.Operator memory record = _SETTLEMENT.operatorOf(juror);
        if (record.stake - record.unstaking < _SETTLEMENT.MIN_STAKE()) return false;
        if (record.stakedAt > place.postedAt - _SETTLEMENT.EPOCH()) return false;
        address provider = _SETTLEMENT.payoutOf(place.payee);
        address requester = place.requester;
        return juror != provider && juror != requester && record.payout != provider
            && record.payout != requester;
    }

    function _contains(address[] memory list, uint256 length, address account)
        private
        pure
        returns (bool)
    {
        for (uint256 i = 0; i < length; ++i) {
            if (list[i] == account) return true;
        }
        return false;
    }

    function _size(uint8 level) private pure returns (uint256) {
        return level == 0 ? 5 : level == 1 ? 15 : 31;
    }

    /// @dev Votes that decide: all, two thirds, more than half. None in an empty jury.
    function _quorum(uint8 level, uint256 size) private pure returns (uint256) {
        if (level == 0) return size;
        return level == 1 ? (2 * size + 2) / 3 : size == 0 ? 0 : size / 2 + 1;
    }

    /* INTERNAL: DECIDING */

    /// @dev The one verdict of these votes, and who gave them.
    function _count(bytes32 receiptHash, address[] calldata jury, Vote[] calldata votes)
        private
        view
        returns (uint8 verdict, address[] memory voters)
    {
        verdict = votes[0].attestation.verdict;
        if (verdict != MATCH && verdict != MISMATCH) revert ErrorsLib.WrongVerdict(MATCH, verdict);
        voters = new address[](votes.length);
        uint256 next = 0;
        for (uint256 i = 0; i < votes.length; ++i) {
            Vote calldata vote = votes[i];
            if (vote.seat < next || vote.seat >= jury.length) {
                revert ErrorsLib.BadIndex(next, vote.seat);
            }
            next = uint256(vote.seat) + 1;
            _checkHash("attestation.receiptHash", receiptHash, vote.attestation.receiptHash);
            if (vote.attestation.verdict != verdict) {
                revert ErrorsLib.WrongVerdict(verdict, vote.attestation.verdict);
            }
            _checkSigner(jury[vote.seat], vote.attestation.hash(), vote.signature);
            voters[i] = jury[vote.seat];
        }
    }

    /// @dev A new jury at the next level, from a block that nobody knows yet.
    function _raise(Case storage case_) private {
        ++case_.level;
        case_.verdict = 0;
        if (!case_.isPosted) _trials[case_.receiptHash].verdict = 0;
        case_.juryHash = 0;
        case_.votersHash = 0;
        case_.deadline = 0;
        case_.drawBlock = uint64(block.number);
    }

    function _case(uint256 id) private view returns (Case storage case_) {
        case_ = _cases[id];
        if (case_.receiptHash == 0) revert ErrorsLib.UnknownCase(id);
    }

    /* INTERNAL: CLOSING */

    /// @dev Nothing more can change the verdict, or there will be none.
    function _checkClosable(Case storage case_) private view {
        if (case_.juryHash == 0) revert ErrorsLib.NotSeated();
        bool isLast = case_.level == LAST_LEVEL;
        bool isDecided = case_.verdict != 0;
        if (!isDecided && !isLast) revert ErrorsLib.NotDecided();
        if (!isDecided || !isLast) _checkOver(case_.deadline);
    }

    /// @dev Where other cases hold what is to be lost, it is owed: else a forger could have a friend
    /// open cases against it that nobody can judge, and lose nothing.
    function _convict(Case memory case_, address[] calldata voters) private {
        IDisputes.Place memory place = case_.place;
        uint64 missing = _SETTLEMENT.STAKE_SLASH() - case_.stakeHeld;
        uint64 taken = _take(ISettlement.Pocket.STAKE, place.payee, missing, 0);
        _owed[place.payee] += missing - taken;
        address accuser = case_.parties[0].account;
        _splitSlash(place.payee, case_.stakeHeld + taken, accuser, place.requester, voters);
        _settleBonds(case_, true, voters, address(0));
    }

    function _acquit(Case memory case_, address[] calldata voters) private {
        _releaseStake(case_.place.payee, case_.stakeHeld);
        _settleBonds(case_, false, voters, case_.place.payee);
    }

    function _dismiss(Case memory case_) private {
        _releaseStake(case_.place.payee, case_.stakeHeld);
        for (uint256 i = 0; i < case_.parties.length; ++i) {
            _returnBond(case_.parties[i].account, case_.parties[i].bond);
        }
    }

    /// @dev Gives back stake that was held, less what its operator owes: that is burnt.
    function _releaseStake(address operator, uint64 amount) private {
        uint64 owed = _owed[operator];
        uint64 lost = owed < amount ? owed : amount;
        if (lost != 0) {
            _owed[operator] = owed - lost;
            _give(ISettlement.Pocket.BURNT, operator, lost, 0);
            emit EventsLib.Slashed(operator, address(0), address(0), lost, 0, 0, 0);
        }
        _give(ISettlement.Pocket.STAKE, operator, amount - lost, 0);
    }

    /// @dev Bonds of the side that was right go back. Of the others', half pays the jurors; the rest
    /// goes to the accused, or is burnt.
    function _settleBonds(
        Case memory case_,
        bool convicted,
        address[] calldata voters,
        address harmed
    ) private {
        uint64 lost = 0;
        for (uint256 i = 0; i < case_.parties.length; ++i) {
            Party memory party = case_.parties[i];
            if (party.accuses == convicted) _returnBond(party.account, party.bond);
            else lost += party.bond;
        }
        uint64 rest = lost - _payEvenly(voters, lost / 2);
        if (harmed != address(0)) _reward(harmed, rest);
        else _give(ISettlement.Pocket.BURNT, case_.place.payee, rest, 0);
    }
}
