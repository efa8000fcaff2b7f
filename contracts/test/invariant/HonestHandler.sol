// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.37;

import {IJury} from "../../src/interfaces/IJury.sol";
import {SumTree} from "../../src/libraries/SumTree.sol";
import {VM} from "../Vm.sol";
import {Handler} from "./Handler.sol";

/// @notice A market in which some do what the protocol asks of them, always before it is too late, and
/// all others do whatever they can.
contract HonestHandler is Handler {
    uint256 private constant WATCHER = 12;

    function setUp() public override {
        super.setUp();
        isHonest[parties[HONEST_REQUESTER]] = true;
        isHonest[parties[HONEST_COORDINATOR]] = true;
        isHonest[parties[HONEST_PROVIDER]] = true;
        isHonest[parties[HONEST_VERIFIER]] = true;
    }

    /* WHAT HOLDS */

    function checkAll() external view override {
        _checkMoney();
        uint256 present = VM.getBlockTimestamp();
        for (uint256 i = 0; i < posts.length; ++i) {
            Spot memory spot = Spot({post: uint32(i), lane: 0, index: 0});
            Post storage post = posts[i];
            if (isHonest[post.coordinator]) _checkHonestPost(spot);
            // Until here a watcher may challenge, and the last challenge be answered.
            if (present > uint256(post.postedAt) + OPEN + RESPONSE) _checkNoWrongLine(spot);
        }
    }

    /// @dev An honest coordinator's payments stand, but for work that a jury found false.
    function _checkHonestPost(Spot memory spot) private view {
        for (; spot.lane < posts[spot.post].lanes; ++spot.lane) {
            assertTrue(!_laneAt(spot).isVoid, "a lane of an honest coordinator is void");
            for (spot.index = 0; spot.index < _laneAt(spot).size; ++spot.index) {
                Line storage line = _line(spot);
                assertTrue(!line.isVoid || line.isFalse, "a line of an honest coordinator is void");
            }
        }
        spot.lane = 0;
    }

    /// @dev Nobody has paid for what it had not signed, nor twice for what it had.
    function _checkNoWrongLine(Spot memory spot) private view {
        for (; spot.lane < posts[spot.post].lanes; ++spot.lane) {
            for (spot.index = 0; spot.index < _laneAt(spot).size; ++spot.index) {
                Line storage line = _line(spot);
                if (line.flaw == Flaw.NONE || line.holds != 0 || !_isPaid(spot)) continue;
                bool isFirst = line.flaw == Flaw.DOUBLE && !_isPaid(line.first);
                if (!isFirst) {
                    revert(string.concat("paid: flaw ", VM.toString(uint256(line.flaw))));
                }
            }
        }
    }

    /* WHAT THE HONEST DO */

    /// @dev Before time passes each does what would then be too late.
    function _beforeTime(uint256 to) internal override {
        for (uint256 i = openAsks.length; i != 0; --i) {
            uint256 id = openAsks[i - 1];
            Spot memory spot = asks[id].spot;
            address coordinator = posts[spot.post].coordinator;
            if (!isHonest[coordinator] || asks[id].deadline >= to) continue;
            // Of a leaf that a jury found false meanwhile nothing is asked any more.
            if (!asks[id].isLeaf || !_line(spot).isVoid) _respond(coordinator, id);
        }
        for (uint256 i = 0; i < openTrials.length; ++i) {
            _judge(openTrials[i], to);
        }
        for (uint256 i = posts.length; i != 0; --i) {
            Spot memory spot = Spot({post: uint32(i - 1), lane: 0, index: 0});
            if (!_isYoung(spot)) break;
            bool isLast = posts[i - 1].postedAt + OPEN < to && !posts[i - 1].isWatched;
            _watch(spot, isLast);
            if (isLast) posts[i - 1].isWatched = true;
        }
    }

    /// @dev What nobody answered in time is ended at once.
    function _afterTime() internal override {
        uint256 present = VM.getBlockTimestamp();
        for (uint256 i = openAsks.length; i != 0; --i) {
            uint256 id = openAsks[i - 1];
            if (asks[id].deadline < present) _timeout(parties[WATCHER], id);
        }
    }

    function _verdictOf(Spot memory spot, uint256) internal view override returns (uint8) {
        return _line(spot).isFalse ? 2 : 1;
    }

    function _judge(uint256 id, uint256 to) private {
        IJury.Case memory case_ = jury.caseOf(id);
        bool isSitting = case_.juryHash != 0 && case_.verdict == 0;
        if (!isSitting || case_.deadline >= to) return;
        if (VM.getBlockTimestamp() > case_.deadline) return;
        (address[] memory seats,) = _jurors(id);
        if (seats.length != 0) _decide(id, case_.level, _verdictOf(trials[id].spot, 0));
    }

    /// @dev Proves what can be proven and, before it is too late, challenges the rest. What is withheld
    /// is known only once somebody answered.
    function _watch(Spot memory spot, bool isLast) private {
        address watcher = parties[WATCHER];
        Post storage post = posts[spot.post];
        for (; spot.lane < post.lanes; ++spot.lane) {
            uint32 width = uint32(1 << SumTree.depth(_laneAt(spot).count));
            for (spot.index = 0; spot.index < width; ++spot.index) {
                Line storage line = _line(spot);
                bool isKnown = !post.isWithheld || line.isAnswered;
                if (isKnown && line.flaw == Flaw.DOUBLE) {
                    if (_isTakeable(spot) && _isPaid(line.first)) _proveDouble(watcher, spot);
                } else if (isKnown && _isProvable(line.flaw)) {
                    if (_isTakeable(spot)) _proveBadLeaf(watcher, spot);
                } else if (isLast && !post.isDirect && !_laneAt(spot).isVoid) {
                    if (!isKnown || line.flaw != Flaw.NONE) _ask(spot, !isKnown);
                }
            }
        }
    }

    function _ask(Spot memory spot, bool isWithheld) private {
        if (!_isChallengeable(spot)) return;
        bool isLeaf = !isWithheld && _line(spot).flaw != Flaw.HIDDEN;
        if (isLeaf && _line(spot).isVoid) return;
        _challenge(parties[WATCHER], spot, isLeaf);
    }
}
