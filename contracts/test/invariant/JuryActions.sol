// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.37;

import {IDisputes} from "../../src/interfaces/IDisputes.sol";
import {IJury} from "../../src/interfaces/IJury.sol";
import {Hashing} from "../../src/libraries/Hashing.sol";
import {VM} from "../Vm.sol";
import {DisputeActions} from "./DisputeActions.sol";

/// @notice Payment without the coordinator, and cases about false work.
abstract contract JuryActions is DisputeActions {
    enum Stage {
        DRAWING,
        SITTING,
        DECIDED
    }

    uint8 private constant LAST_LEVEL = 2;
    /// @dev With more of them at once, few would come to an end.
    uint256 private constant OPEN_TRIALS = 10;

    /* DIRECT SETTLEMENT */

    /// @notice A unit that no batch has paid, or, to be proven double, one that a batch has paid.
    function settleDirect(uint256 seed) external {
        Spot memory first;
        Line memory line;
        bool isDouble = seed % 3 == 0;
        bool isFit = false;
        for (uint256 i = 0; i < TRIES && !isFit; ++i) {
            first = _spot(seed ^ (i << 200));
            line = _line(first);
            if (!isDouble) line.unit = _laneAt(first).size;
            isFit = line.kind == Kind.WORK && line.flaw == Flaw.NONE && !posts[first.post].isDirect
                && line.unit < UNITS && !isSettled[line.order][line.unit]
                && !(isDouble && (line.isDoubled || isHonest[line.provider]));
        }
        _need(isFit);
        if (isDouble) (line.flaw, line.first) = (Flaw.DOUBLE, first);
        Hashing.Order memory order = orders[line.order];
        bool isTime = _mayWait(seed, uint256(order.settleBy) + 1, 2)
            && VM.getBlockTimestamp() <= order.expiry;
        _ensureStake(line.provider);
        _ensureEscrow(order.requester, line.price);
        bytes memory data = _directData(line, order, seed);
        if (!isTime) return _refused(line.provider, address(disputes), data, "direct out of time");
        if (isDouble) _line(first).isDoubled = true;
        _settle(line, order.requester, data);
        _did(isDouble ? "settleDirect again" : "settleDirect");
        _refused(line.provider, address(disputes), data, "direct twice");
    }

    function _settle(Line memory line, address requester, bytes memory data) private {
        address caller = line.unit % 2 == 0 ? line.provider : settlement.payoutOf(line.provider);
        VM.prank(caller);
        (bool ok, bytes memory answer) = address(disputes).call(data);
        if (!ok) _bubble(answer);
        isSettled[line.order][line.unit] = true;
        uint256 id = posts.length;
        (line.holds, line.isChallenged, line.isAnswered) = (0, false, false);
        (line.isAccused, line.isJudged, line.isVoid, line.isDoubled) = (false, false, false, false);
        lines[id][0][0] = line;
        Lane storage lane = lanes[id][0];
        (lane.requester, lane.payee, lane.amount) = (requester, line.provider, line.price);
        (lane.count, lane.size) = (1, 1);
        Draft memory draft = _draft(requester, line.provider, _leaves(_leafOf(line)));
        IDisputes.Batch memory batch = _makeBatch(address(disputes), draft);
        batch.dataHash = Hashing.hash(_receiptOf(line));
        batch.seq = abi.decode(answer, (uint64));
        batch.postedAt = uint64(VM.getBlockTimestamp());
        _record(batch, draft, true);
    }

    /// @dev Accepted by the requester or by a verifier with another payout address.
    function _directData(Line memory line, Hashing.Order memory order, uint256 seed)
        private
        returns (bytes memory)
    {
        IDisputes.Evidence memory evidence;
        evidence.order = order;
        evidence.orderSignature = _sign(order.requester, Hashing.hash(order));
        evidence.receipt = _receiptOf(line);
        bytes32 receiptHash = Hashing.hash(evidence.receipt);
        evidence.receiptSignature = _sign(line.provider, receiptHash);
        Hashing.Assignment memory assignment = Hashing.Assignment({
            orderHash: evidence.receipt.orderHash,
            unit: line.unit,
            provider: line.provider,
            maxPrice: line.price,
            reservedUntil: evidence.receipt.finishedAt
        });
        bytes memory assigned = _sign(order.coordinator, Hashing.hash(assignment));
        bytes memory accepted;
        address verifier = parties[7 + _mix(seed, "verifier") % 6];
        if (settlement.payoutOf(verifier) == settlement.payoutOf(line.provider)) {
            accepted = _sign(order.requester, Hashing.acceptance(receiptHash));
        } else {
            _ensureStake(verifier);
            evidence.attestation = _verdictOn(evidence.receipt, 1);
            evidence.attestationSignature = _sign(verifier, Hashing.hash(evidence.attestation));
        }
        return abi.encodeCall(disputes.settleDirect, (evidence, assignment, assigned, accepted));
    }

    /* CASES */

    function accuse(uint256 seed) external {
        _need(openTrials.length < OPEN_TRIALS);
        Spot memory spot;
        bool isSigned = false;
        for (uint256 i = 0; i < TRIES && !isSigned; ++i) {
            spot = _spot(seed ^ (i << 200));
            isSigned = _isSignedWork(_line(spot)) && !posts[spot.post].isWithheld;
        }
        _need(isSigned);
        Line storage line = _line(spot);
        address who = _party(seed);
        _ensureEscrow(who, JURY_BOND);
        bytes memory data = _accusation(spot);
        bool isFit = !line.isAccused && !line.isJudged && !_laneAt(spot).isVoid;
        if (!isFit || !_isTakeable(spot)) {
            return _refused(who, address(jury), data, "accuse out of time");
        }
        _openTrial(who, spot, data);
        _held(spot);
        line.isAccused = true;
        _did("accuse");
    }

    /// @notice The work of a line by its receipt alone, or by one of another unit, which may be in no
    /// batch.
    function accuseReceipt(uint256 seed) external {
        _need(openTrials.length < OPEN_TRIALS);
        Spot memory spot;
        bool isSigned = false;
        for (uint256 i = 0; i < TRIES && !isSigned; ++i) {
            spot = _spot(seed ^ (i << 200));
            isSigned = _isSignedWork(_line(spot));
        }
        _need(isSigned);
        Trial memory trial;
        (trial.spot, trial.unit) = (spot, seed % 2 == 0 ? _line(spot).unit : UNITS - 1);
        Hashing.Receipt memory receipt = _receiptOf(trial);
        bytes32 receiptHash = Hashing.hash(receipt);
        Hashing.Order memory order = orders[_line(spot).order];
        address who = _party(seed);
        _ensureEscrow(who, JURY_BOND);
        bytes memory signature = _sign(receipt.provider, receiptHash);
        bytes memory data = abi.encodeCall(
            jury.accuseReceipt,
            (order, receipt, signature, _eligibleAt(VM.getBlockTimestamp() - EPOCH))
        );
        if (VM.getBlockTimestamp() > order.expiry) {
            return _refused(who, address(jury), data, "accuse receipt too late");
        }
        if (triedAlone[receiptHash] != 0) {
            return _refused(who, address(jury), data, "accuse receipt twice");
        }
        uint256 id = _openTrial(who, spot, data);
        (trials[id].isAlone, trials[id].unit) = (true, trial.unit);
        triedAlone[receiptHash] = id;
        _did("accuseReceipt");
        _refused(who, address(jury), data, "accuse receipt twice");
    }

    function _openTrial(address who, Spot memory spot, bytes memory data)
        private
        returns (uint256 id)
    {
        uint64 stake_ = settlement.operatorOf(_line(spot).provider).stake;
        VM.prank(who);
        (bool ok, bytes memory answer) = address(jury).call(data);
        if (!ok) _bubble(answer);
        id = abi.decode(answer, (uint256));
        Trial storage trial = trials[id];
        (trial.spot, trial.unit) = (spot, _line(spot).unit);
        trial.stakeHeld = stake_ < STAKE_SLASH ? stake_ : STAKE_SLASH;
        trial.bonds = JURY_BOND;
        openTrials.push(id);
    }

    function _isSignedWork(Line storage line) private view returns (bool) {
        Flaw flaw = line.flaw;
        bool isSigned = flaw < Flaw.NO_LINE && flaw != Flaw.NO_RECEIPT || flaw == Flaw.LATE
            || flaw == Flaw.DOUBLE;
        return line.kind == Kind.WORK && isSigned;
    }

    function seatJury(uint256 seed) external {
        uint256 id = _trialAt(seed, Stage.DRAWING);
        if (_seat(id, seed % 15 == 0)) {
            _did("redraw");
            // Time passes in days here, so who comes late once would always come late.
            if (seed % 4 == 0 || _seat(id, false)) return;
        }
        _did("seatJury");
    }

    function decide(uint256 seed) external {
        uint256 id = _trialAt(seed, Stage.SITTING);
        IJury.Case memory case_ = jury.caseOf(id);
        (address[] memory seats,) = _jurors(id);
        _need(seats.length != 0);
        uint8 verdict = _verdictOf(trials[id].spot, seed);
        if (VM.getBlockTimestamp() > case_.deadline) {
            bytes memory data = _votes(id, case_.level, verdict);
            return _refused(_party(seed), address(jury), data, "decide too late");
        }
        _decide(id, case_.level, verdict);
        _did(verdict == 1 ? "decide: right" : "decide: false");
    }

    function appeal(uint256 seed) external {
        uint256 id = _trialAt(seed, Stage.DECIDED);
        IJury.Case memory case_ = jury.caseOf(id);
        address who = _party(seed);
        uint64 amount = JURY_BOND << (case_.level + 1);
        _ensureEscrow(who, amount);
        if (case_.level == LAST_LEVEL || VM.getBlockTimestamp() > case_.deadline) {
            bytes memory data = abi.encodeCall(jury.appeal, (id));
            return _refused(who, address(jury), data, "appeal out of time");
        }
        VM.prank(who);
        jury.appeal(id);
        trials[id].bonds += amount;
        _did("appeal");
    }

    function escalate(uint256 seed) external {
        uint256 id = _trialAt(seed, Stage.SITTING);
        IJury.Case memory case_ = jury.caseOf(id);
        _need(case_.level != LAST_LEVEL);
        if (!_mayWait(seed, uint256(case_.deadline) + 1, 5)) {
            bytes memory data = abi.encodeCall(jury.escalate, (id));
            return _refused(_party(seed), address(jury), data, "escalate too early");
        }
        // Honest jurors may have decided while time passed.
        if (jury.caseOf(id).verdict != 0) return _did("time passed");
        VM.prank(_party(seed));
        jury.escalate(id);
        _did("escalate");
    }

    function close(uint256 seed) external {
        _need(openTrials.length != 0);
        uint256 id = openTrials[_mix(seed, "trial") % openTrials.length];
        IJury.Case memory case_ = jury.caseOf(id);
        bool isLast = case_.level == LAST_LEVEL;
        bool isRipe = case_.juryHash != 0 && (isLast || case_.verdict != 0);
        if (isRipe && !(isLast && case_.verdict != 0)) {
            isRipe = _mayWait(seed, uint256(case_.deadline) + 1, 5);
            if (jury.caseOf(id).verdict != case_.verdict) return _did("time passed");
        }
        if (!isRipe) {
            bytes memory data = abi.encodeCall(jury.close, (id, new address[](0)));
            return _refused(_party(seed), address(jury), data, "close too early");
        }
        _close(_party(seed), id);
    }

    /* INTERNAL */

    /// @dev What a jury says; any nonsense, unless jurors are honest.
    function _verdictOf(Spot memory, uint256 seed) internal view virtual returns (uint8) {
        return uint8(1 + _mix(seed, "verdict") % 2);
    }

    /// @dev The first case at a stage, from a chosen one on.
    function _trialAt(uint256 seed, Stage stage) private returns (uint256 id) {
        uint256 count = openTrials.length;
        for (uint256 i = 0; i < count; ++i) {
            id = openTrials[(_mix(seed, "trial") % count + i) % count];
            IJury.Case memory case_ = jury.caseOf(id);
            Stage found = case_.juryHash == 0
                ? Stage.DRAWING
                : case_.verdict == 0 ? Stage.SITTING : Stage.DECIDED;
            if (found == stage) return id;
        }
        _need(false);
    }

    /// @dev Seats a jury, or redraws when the block is out of reach or that is wanted.
    function _seat(uint256 id, bool isLate) internal returns (bool isRedrawn) {
        uint256 seedBlock = uint256(jury.caseOf(id).drawBlock) + SEED_DELAY;
        uint256 present = VM.getBlockNumber();
        if (isLate || present > seedBlock + 256) {
            if (present <= seedBlock + 8191) VM.roll(seedBlock + 8192);
            jury.redraw(id);
            return true;
        }
        if (present <= seedBlock) VM.roll(seedBlock + 1);
        bytes memory header = _header(keccak256(abi.encode(seedBlock)));
        VM.setBlockhash(seedBlock, keccak256(header));
        jury.seatJury(id, header);
        _readLogs();
    }

    function _decide(uint256 id, uint8 level, uint8 verdict) internal {
        bytes memory data = _votes(id, level, verdict);
        (bool ok, bytes memory why) = address(jury).call(data);
        if (!ok) _bubble(why);
    }

    function _close(address who, uint256 id) internal {
        Trial memory trial = trials[id];
        IJury.Case memory case_ = jury.caseOf(id);
        uint8 verdict = case_.verdict;
        bool isVoid = !trial.isAlone && _line(trial.spot).isVoid;
        address[] memory voters;
        if (verdict != 0) (, voters) = _voters(id, case_.level);
        _expectSlash(_line(trial.spot).provider, trial.stakeHeld, verdict);
        VM.prank(who);
        jury.close(id, voters);
        if (trial.isAlone) {
            if (verdict == 0) delete triedAlone[Hashing.hash(_receiptOf(trial))];
        } else {
            if (verdict == 2) _voided(trial.spot);
            _line(trial.spot).isAccused = false;
            _line(trial.spot).isJudged = verdict != 0;
            _released(trial.spot);
        }
        for (uint256 i = 0; i < openTrials.length; ++i) {
            if (openTrials[i] != id) continue;
            openTrials[i] = openTrials[openTrials.length - 1];
            openTrials.pop();
        }
        if (trial.isAlone) _checkTrial(id, Hashing.hash(_receiptOf(trial)), verdict);
        _did(verdict == 0 ? "close: none" : verdict == 1 ? "close: right" : "close: false");
        if (trial.isAlone) _did(verdict == 0 ? "close of a receipt: none" : "close of a receipt");
        if (isVoid) _did(verdict == 2 ? "close of what is void: false" : "close of what is void");
    }

    /// @dev What a conviction does not find is owed, and what is owed is paid out of what is held.
    function _expectSlash(address provider, uint64 stakeHeld, uint8 verdict) private {
        uint64 stake_ = settlement.operatorOf(provider).stake;
        if (verdict == 2) {
            uint64 missing = STAKE_SLASH - stakeHeld;
            if (missing > stake_) owed[provider] += missing - stake_;
        } else {
            uint64 paid = owed[provider] < stakeHeld ? owed[provider] : stakeHeld;
            owed[provider] -= paid;
            if (paid != 0) ++successes["debt paid"];
        }
        if (owed[provider] != 0) ++successes["debt"];
    }

    /// @dev Of a receipt that was tried alone the outcome stays.
    function _checkTrial(uint256 id, bytes32 receiptHash, uint8 verdict) private view {
        IJury.Trial memory trial = jury.trialOf(receiptHash);
        _same(trial.id, verdict == 0 ? 0 : id, "trial");
        _same(trial.verdict, verdict, "verdict of the trial");
        assertTrue(trial.isOver == (verdict != 0), "trial over");
    }

    function _jurors(uint256 id) internal view returns (address[] memory seats, uint256 count) {
        bytes memory seated = trials[id].jury;
        if (seated.length != 0) seats = abi.decode(seated, (address[]));
        count = seats.length;
    }

    /// @dev The last so many of the seats that a level needs.
    function _voters(uint256 id, uint8 level)
        internal
        view
        returns (uint256 from, address[] memory voters)
    {
        (address[] memory seats, uint256 count) = _jurors(id);
        uint256 quorum = level == 0 ? count : level == 1 ? (2 * count + 2) / 3 : count / 2 + 1;
        from = count - quorum;
        voters = new address[](quorum);
        for (uint256 i = 0; i < quorum; ++i) {
            voters[i] = seats[from + i];
        }
    }

    function _votes(uint256 id, uint8 level, uint8 verdict) private view returns (bytes memory) {
        (address[] memory seats,) = _jurors(id);
        (uint256 from, address[] memory voters) = _voters(id, level);
        Hashing.Attestation memory attestation = _verdictOn(_receiptOf(trials[id]), verdict);
        IJury.Vote[] memory votes = new IJury.Vote[](voters.length);
        for (uint256 i = 0; i < voters.length; ++i) {
            votes[i].seat = uint8(from + i);
            votes[i].attestation = attestation;
            votes[i].signature = _sign(voters[i], Hashing.hash(attestation));
        }
        return abi.encodeCall(jury.decide, (id, seats, votes));
    }

    function _accusation(Spot memory spot) private view returns (bytes memory) {
        Hashing.Receipt memory receipt = _receiptOf(_line(spot));
        bytes memory signature = _sign(receipt.provider, Hashing.hash(receipt));
        uint32 eligible = _eligibleAt(posts[spot.post].postedAt - EPOCH);
        return abi.encodeCall(
            jury.accuse, (_batchOf(spot), _openingOf(spot), receipt, signature, eligible)
        );
    }

    function _eligibleAt(uint256 latest) private view returns (uint32 eligible) {
        while (eligible < settlement.verifierCount()) {
            (, uint64 listedAt) = settlement.verifierAt(eligible);
            if (listedAt > latest) break;
            ++eligible;
        }
    }

    /// @dev What a case is about.
    function _receiptOf(Trial memory trial) internal view returns (Hashing.Receipt memory) {
        Line memory line = _line(trial.spot);
        line.unit = trial.unit;
        return _receiptOf(line);
    }
}
