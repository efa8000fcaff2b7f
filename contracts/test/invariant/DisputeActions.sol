// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.37;

import {IDisputes} from "../../src/interfaces/IDisputes.sol";
import {Hashing} from "../../src/libraries/Hashing.sol";
import {SumTree} from "../../src/libraries/SumTree.sol";
import {VM} from "../Vm.sol";
import {MoneyActions} from "./MoneyActions.sol";

/// @notice Batches, and what is said against them.
abstract contract DisputeActions is MoneyActions {
    /* BATCHES */

    function postGood(uint256 seed) external {
        address coordinator = parties[2 + seed % 2];
        _ensureBond(coordinator);
        Spot memory none;
        uint256 id = _postLines(coordinator, seed, Flaw.NONE, none);
        // Also a right batch may be kept from everybody; but not by an honest coordinator.
        posts[id].isWithheld = !isHonest[coordinator] && _mix(seed, "withheld") % 6 == 0;
        _did("postGood");
    }

    function postBad(uint256 seed) external {
        address coordinator = parties[isHonest[parties[2]] ? 3 : 2 + seed % 2];
        uint256 kind = 1 + _mix(seed, "flaw") % 16;
        Flaw flaw = kind > 12 ? Flaw.DOUBLE : Flaw(kind);
        Spot memory first;
        if (flaw == Flaw.DOUBLE) {
            bool isFit = false;
            for (uint256 i = 0; i < TRIES && !isFit; ++i) {
                first = _spot(seed ^ (i << 200));
                isFit = _isDoublable(first);
            }
            _need(isFit);
            coordinator = posts[first.post].coordinator;
        }
        _ensureBond(coordinator);
        uint256 id = _postLines(coordinator, seed, flaw, first);
        posts[id].isWithheld = _mix(seed, "withheld") % 6 == 0;
        _did("postBad");
    }

    function _isDoublable(Spot memory spot) private view returns (bool) {
        Line storage line = _line(spot);
        Post storage post = posts[spot.post];
        if (line.flaw != Flaw.NONE || line.isDoubled || post.isWithheld || post.isDirect) {
            return false;
        }
        return orders[line.order].settleBy >= VM.getBlockTimestamp() && !isHonest[post.coordinator];
    }

    /* CHALLENGES */

    function challengeLeaf(uint256 seed) external {
        Spot memory spot;
        bool isFit = false;
        for (uint256 i = 0; i < TRIES && !isFit; ++i) {
            spot = _spot(seed ^ (i << 200));
            isFit = !posts[spot.post].isWithheld && !posts[spot.post].isDirect
                && spot.index < _laneAt(spot).count && _isChallengeable(spot);
        }
        _need(isFit);
        if (!_isPaid(spot)) return _challengeVoid(_party(seed), spot);
        _challenge(_party(seed), spot, true);
        _did("challengeLeaf");
    }

    function _challengeVoid(address who, Spot memory spot) private {
        _ensureEscrow(who, CHALLENGE_BOND);
        bytes memory data =
            abi.encodeCall(disputes.challengeLeaf, (_batchOf(spot), _openingOf(spot)));
        _refused(who, address(disputes), data, "challenge of what is void");
    }

    /// @notice Also of padding; and padding challenged as a leaf, which is refused.
    function challengeWithheld(uint256 seed) external {
        Spot memory spot;
        bool isFit = false;
        for (uint256 i = 0; i < TRIES && !isFit; ++i) {
            spot = _spot(seed ^ (i << 200));
            uint256 width = 1 << SumTree.depth(_laneAt(spot).count);
            spot.index = uint32(_mix(seed, "any index") % width);
            isFit = !posts[spot.post].isDirect && !_laneAt(spot).isVoid && _isChallengeable(spot);
        }
        _need(isFit);
        if (spot.index >= _laneAt(spot).size) {
            address who = _party(seed);
            _ensureEscrow(who, CHALLENGE_BOND);
            bytes memory data =
                abi.encodeCall(disputes.challengeLeaf, (_batchOf(spot), _openingOf(spot)));
            _refused(who, address(disputes), data, "challenge of padding as a leaf");
        }
        _challenge(_party(seed), spot, false);
        _did("challengeWithheld");
    }

    /// @notice Answers with the best there is. Where something is wrong, that must not do.
    function respond(uint256 seed) external {
        uint256 id = _anyAsk(seed);
        if (_isRightAnswer(id)) {
            if (_respond(_party(seed), id)) _did("respond");
            else _did("respond to withheld");
            return;
        }
        _ensureEscrow(_party(seed), CHALLENGE_BOND);
        _refused(_party(seed), address(disputes), _answer(id), "wrong answer");
    }

    function timeout(uint256 seed) external {
        uint256 id = _anyAsk(seed);
        Ask storage ask = asks[id];
        bool isMoot = ask.isLeaf ? _line(ask.spot).isVoid : _laneAt(ask.spot).isVoid;
        if (!isMoot && !_mayWait(seed, uint256(ask.deadline) + 1, 5)) {
            bytes memory data = abi.encodeCall(disputes.timeout, (id, _challengeOf(id)));
            return _refused(_party(seed), address(disputes), data, "timeout too early");
        }
        // An honest party may have ended it while time passed.
        if (ask.deadline == 0) return _did("time passed");
        _timeout(_party(seed), id);
        _did(isMoot ? "timeout of what is void" : "timeout");
        _refused(
            _party(seed),
            address(disputes),
            abi.encodeCall(disputes.timeout, (id, _challengeOf(id))),
            "timeout twice"
        );
    }

    /* PROOFS */

    function proveBadLeaf(uint256 seed) external {
        Spot memory spot = _find(seed, Flaw.PRICE);
        if (_isTakeable(spot)) {
            _proveBadLeaf(_party(seed), spot);
            _did("proveBadLeaf");
            if (_isChallengeable(spot)) _challengeVoid(_party(seed), spot);
            return;
        }
        bytes memory data = abi.encodeCall(
            disputes.proveBadLeaf, (_batchOf(spot), _openingOf(spot), orders[_line(spot).order])
        );
        _refused(_party(seed), address(disputes), data, "proof too late or twice");
    }

    /// @notice A right line is no bad leaf, and no double of another.
    function proveFalsely(uint256 seed) external {
        Spot memory spot = _spot(seed);
        Line storage line = _line(spot);
        _need(!_isProvable(line.flaw) && line.flaw != Flaw.HIDDEN && line.flaw != Flaw.NO_ORDER);
        bytes memory data = abi.encodeCall(
            disputes.proveBadLeaf, (_batchOf(spot), _openingOf(spot), orders[line.order])
        );
        _refused(_party(seed), address(disputes), data, "false proof of a bad leaf");
        Spot memory other = _spot(seed >> 16);
        bool isSame = _line(other).order == line.order && _line(other).unit == line.unit;
        if (isSame || _line(other).flaw == Flaw.HIDDEN) return;
        IDisputes.Evidence memory none;
        data = abi.encodeCall(
            disputes.proveDouble,
            (_batchOf(other), _openingOf(other), _batchOf(spot), _openingOf(spot), none)
        );
        _refused(_party(seed), address(disputes), data, "false proof of a double");
    }

    function proveDouble(uint256 seed) external {
        Spot memory spot = _find(seed, Flaw.DOUBLE);
        if (_isPaid(_line(spot).first) && _isTakeable(spot)) {
            _proveDouble(_party(seed), spot);
            return _did("proveDouble");
        }
        _refused(_party(seed), address(disputes), _doubleProof(spot), "double of what is void");
    }

    function proveConflict(uint256 seed) external {
        address verifier = parties[isHonest[parties[7]] ? 8 + seed % 5 : 7 + seed % 6];
        Hashing.Receipt memory receipt;
        receipt.price = uint64(successes["proveConflict"]);
        Hashing.Attestation memory good = _verdictOn(receipt, 1);
        Hashing.Attestation memory bad = _verdictOn(receipt, 2);
        bytes memory goodSigned = _sign(verifier, Hashing.hash(good));
        bytes memory badSigned = _sign(verifier, Hashing.hash(bad));
        bytes memory data =
            abi.encodeCall(disputes.proveConflict, (good, goodSigned, bad, badSigned));
        VM.prank(_party(seed));
        disputes.proveConflict(good, goodSigned, bad, badSigned);
        _did("proveConflict");
        _refused(_party(seed), address(disputes), data, "conflict twice");
    }

    /* INTERNAL: ACTING */

    function _isChallengeable(Spot memory spot) internal view returns (bool) {
        Line storage line = _line(spot);
        bool isOpen = VM.getBlockTimestamp() <= uint256(posts[spot.post].postedAt) + OPEN;
        return isOpen && !line.isAnswered && !line.isChallenged;
    }

    function _challenge(address who, Spot memory spot, bool isLeaf) internal {
        _ensureEscrow(who, CHALLENGE_BOND);
        IDisputes.Batch memory batch = _batchOf(spot);
        uint256 id;
        if (isLeaf) {
            IDisputes.Opening memory opening = _openingOf(spot);
            VM.prank(who);
            id = disputes.challengeLeaf(batch, opening);
            _held(spot);
        } else {
            VM.prank(who);
            id = disputes.challengeWithheld(batch, spot.lane, spot.index);
            _touch(spot);
            ++_laneAt(spot).open;
        }
        _line(spot).isChallenged = true;
        uint64 deadline = uint64(VM.getBlockTimestamp()) + RESPONSE;
        asks[id] = Ask({spot: spot, isLeaf: isLeaf, challenger: who, deadline: deadline});
        openAsks.push(id);
    }

    /// @dev Returns whether a leaf was asked about, and not a lane.
    function _respond(address who, uint256 id) internal returns (bool isLeaf) {
        bytes memory data = _answer(id);
        VM.prank(who);
        (bool ok, bytes memory why) = address(disputes).call(data);
        if (!ok) _bubble(why);
        Spot memory spot = asks[id].spot;
        isLeaf = asks[id].isLeaf;
        _line(spot).isAnswered = true;
        _endAsk(id);
    }

    function _timeout(address who, uint256 id) internal {
        IDisputes.Challenge memory challenge = _challengeOf(id);
        VM.prank(who);
        disputes.timeout(id, challenge);
        Ask memory ask = asks[id];
        if (ask.isLeaf) _voided(ask.spot);
        else _laneAt(ask.spot).isVoid = true;
        _endAsk(id);
    }

    function _endAsk(uint256 id) private {
        Ask storage ask = asks[id];
        _line(ask.spot).isChallenged = false;
        if (ask.isLeaf) _released(ask.spot);
        else --_laneAt(ask.spot).open;
        ask.deadline = 0;
        for (uint256 i = 0; i < openAsks.length; ++i) {
            if (openAsks[i] != id) continue;
            openAsks[i] = openAsks[openAsks.length - 1];
            openAsks.pop();
        }
    }

    function _proveBadLeaf(address who, Spot memory spot) internal {
        IDisputes.Batch memory batch = _batchOf(spot);
        IDisputes.Opening memory opening = _openingOf(spot);
        Hashing.Order memory order = orders[_line(spot).order];
        VM.prank(who);
        disputes.proveBadLeaf(batch, opening, order);
        _voided(spot);
    }

    function _proveDouble(address who, Spot memory spot) internal {
        bytes memory data = _doubleProof(spot);
        VM.prank(who);
        (bool ok, bytes memory why) = address(disputes).call(data);
        if (!ok) _bubble(why);
        _voided(spot);
    }

    /* INTERNAL: WRITING */

    function _doubleProof(Spot memory spot) internal view returns (bytes memory) {
        Spot memory first = _line(spot).first;
        return abi.encodeCall(
            disputes.proveDouble,
            (
                _batchOf(first),
                _openingOf(first),
                _batchOf(spot),
                _openingOf(spot),
                _evidenceOf(first)
            )
        );
    }

    function _challengeOf(uint256 id) internal view returns (IDisputes.Challenge memory challenge) {
        Ask storage ask = asks[id];
        challenge.place = _placeOf(ask.spot);
        if (ask.isLeaf) {
            Hashing.Leaf memory leaf = _leafOf(_line(ask.spot));
            (challenge.leafHash, challenge.price) = (Hashing.hash(leaf), leaf.price);
        }
        (challenge.challenger, challenge.deadline) = (ask.challenger, ask.deadline);
    }

    function _answer(uint256 id) internal view returns (bytes memory) {
        Spot memory spot = asks[id].spot;
        IDisputes.Evidence memory evidence;
        bool isPadding = spot.index >= _laneAt(spot).size;
        if (!isPadding) evidence = _evidenceOf(spot);
        IDisputes.Challenge memory challenge = _challengeOf(id);
        if (asks[id].isLeaf) {
            Hashing.Leaf memory leaf = _leafOf(_line(spot));
            return abi.encodeCall(disputes.respond, (id, challenge, leaf, evidence));
        }
        return abi.encodeCall(
            disputes.respondWithheld, (id, challenge, _batchOf(spot), _openingOf(spot), evidence)
        );
    }

    /// @dev Whether the answer to a challenge must be accepted now.
    function _isRightAnswer(uint256 id) internal view returns (bool) {
        Ask storage ask = asks[id];
        if (VM.getBlockTimestamp() > ask.deadline) return false;
        Line storage line = _line(ask.spot);
        if (ask.isLeaf) return !line.isVoid && _isAnswerable(line);
        if (ask.spot.index >= _laneAt(ask.spot).size) return true;
        if (ask.spot.index >= _laneAt(ask.spot).count) return false;
        return _isAnswerable(line);
    }

    /// @dev One of the last, or as often any: those that are old can only be ended.
    function _anyAsk(uint256 seed) internal returns (uint256) {
        uint256 count = openAsks.length;
        _need(count != 0);
        uint256 back = _mix(seed, "ask") % (seed % 2 == 0 && count > 3 ? 3 : count);
        return openAsks[count - 1 - back];
    }

    /// @dev The next line with this flaw (PRICE: any that its order shows), from a chosen one on.
    function _find(uint256 seed, Flaw flaw) private returns (Spot memory spot) {
        _need(posts.length != 0);
        uint256 count = posts.length < 10 ? posts.length : 10;
        for (uint256 i = 0; i < count; ++i) {
            spot.post = uint32(posts.length - 1 - (_mix(seed, "find") + i) % count);
            if (posts[spot.post].isWithheld) continue;
            for (spot.index = 0; spot.index < lanes[spot.post][0].count; ++spot.index) {
                Flaw found = _line(spot).flaw;
                if (flaw == Flaw.PRICE ? _isProvable(found) : found == flaw) return spot;
            }
        }
        _need(false);
    }

    function _bubble(bytes memory why) internal pure {
        assembly ("memory-safe") {
            revert(add(why, 32), mload(why))
        }
    }
}
