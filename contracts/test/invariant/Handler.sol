// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.37;

import {IDisputes} from "../../src/interfaces/IDisputes.sol";
import {ISettlement} from "../../src/interfaces/ISettlement.sol";
import {VM} from "../Vm.sol";
import {JuryActions} from "./JuryActions.sol";

/// @notice All that the parties do, in any order; what must hold then; and how all get out.
contract Handler is JuryActions {
    uint256 private constant FULL_CHECK_EVERY = 16;
    uint256 private checks;

    /* WHAT HOLDS */

    /// @notice Totals each time; every ledger and every lane now and then.
    function check() external {
        _same(settlement.held(), heldByLogs, "held");
        _same(settlement.burnt(), burntByLogs, "burnt");
        if (++checks % FULL_CHECK_EVERY == 0) this.checkAll();
    }

    function fail(uint256 step, bytes memory why) external pure {
        if (why.length != 0) _bubble(why);
        revert(string.concat("step ", VM.toString(step)));
    }

    function checkAll() external view virtual {
        _checkMoney();
    }

    function _checkMoney() internal view {
        _checkLedgers();
        _checkLanes();
        _checkCredit();
    }

    /// @dev Each balance is what the logs say, and together they are the tokens inside.
    function _checkLedgers() private view {
        uint256 epoch = VM.getBlockTimestamp() / EPOCH;
        uint256 claims = giftTotal + settlement.held() + settlement.burnt();
        for (uint256 i = 0; i < PARTIES; ++i) {
            address party = parties[i];
            ISettlement.Requester memory requester = settlement.requesterOf(party);
            ISettlement.Coordinator memory coordinator = settlement.coordinatorOf(party);
            ISettlement.Operator memory operator = settlement.operatorOf(party);
            ISettlement.Payee memory payee = settlement.payeeOf(party);
            _same(requester.balance, escrow[party], "escrow");
            _same(coordinator.bond, bonds[party], "bond");
            _same(operator.stake, stakes[party], "stake");
            assertTrue(coordinator.unbonding <= coordinator.bond, "unbonding");
            assertTrue(operator.unstaking <= operator.stake, "unstaking");
            _same(jury.owedBy(party), owed[party], "owed");
            _same(payee.cur, earned[party][epoch], "credit of this epoch");
            _same(payee.prev, earned[party][epoch - 1], "credit of the last epoch");
            uint256 waiting = uint256(payee.cur) + payee.prev;
            _same(payee.available + waiting, credit[party], "credit");
            claims += uint256(requester.balance) + coordinator.bond + operator.stake + credit[party];
            uint256 had = minted[party] + paidOut[party];
            _same(token.balanceOf(party), had - paidIn[party] - gifts[party], "wallet");
        }
        _same(token.balanceOf(address(settlement)), claims, "holdings and claims");
    }

    /// @dev What is out of each lane, what went back, and with all bonds what is held.
    function _checkLanes() private view {
        uint256 held = 0;
        for (uint256 i = 0; i < touched.length; ++i) {
            held += _checkLane(touched[i]);
        }
        held += openAsks.length * CHALLENGE_BOND;
        for (uint256 i = 0; i < openTrials.length; ++i) {
            Trial storage trial = trials[openTrials[i]];
            held += uint256(trial.bonds) + trial.stakeHeld;
        }
        _same(settlement.held(), held, "held and open disputes");
    }

    function _checkLane(Spot memory spot) private view returns (uint256 held) {
        Post storage post = posts[spot.post];
        Lane storage lane = _laneAt(spot);
        (uint256 heldLeaves, uint256 void) = _checkLeaves(spot);
        IDisputes.LaneRecord memory record = disputes.laneOf(post.coordinator, post.seq, spot.lane);
        bool isWhole = lane.open != 0 && !lane.isVoid;
        uint256 back = lane.isVoid ? lane.amount - heldLeaves : void;
        held = isWhole ? lane.amount - void : heldLeaves;
        uint256 aside = isWhole || lane.isVoid ? lane.amount : heldLeaves + void;
        _same(record.aside, aside, "aside");
        _same(record.held, isWhole ? lane.amount - void - heldLeaves : 0, "held of the lane");
        _same(record.open, lane.open, "open challenges of the lane");
        assertTrue(record.isVoid == lane.isVoid, "void lanes stay void, others not");
        bytes32 key = _laneKey(post.coordinator, post.seq, spot.lane);
        _same(refunded[key], back, "refunds of the lane");
        assertTrue(refunded[key] + held <= lane.amount, "more taken out of a lane than it moved");
    }

    function _checkLeaves(Spot memory where) private view returns (uint256 held, uint256 void) {
        Post storage post = posts[where.post];
        for (uint32 i = 0; i < _laneAt(where).size; ++i) {
            Line storage line = lines[where.post][where.lane][i];
            IDisputes.LeafRecord memory record =
                disputes.leafOf(post.coordinator, post.seq, where.lane, i);
            assertTrue(record.isVoid == line.isVoid, "void leaves stay void, others not");
            _same(record.open, line.holds, "disputes of the leaf");
            if (line.isVoid) void += line.price;
            else if (line.holds != 0) held += line.price;
        }
    }

    /// @dev What can still be taken back of each lane is there; other credit may be too.
    function _checkCredit() private view {
        uint256 present = VM.getBlockTimestamp() / EPOCH;
        uint256[2][] memory waiting = new uint256[2][](PARTIES);
        for (uint256 i = posts.length; i != 0; --i) {
            Spot memory spot = Spot({post: uint32(i - 1), lane: 0, index: 0});
            if (!_isYoung(spot)) break;
            Post storage post = posts[spot.post];
            for (; spot.lane < post.lanes; ++spot.lane) {
                Lane storage lane = _laneAt(spot);
                uint64 aside = disputes.laneOf(post.coordinator, post.seq, spot.lane).aside;
                uint256 age = present - post.postedAt / EPOCH;
                waiting[_indexOf(lane.payee)][age] += lane.amount - aside;
            }
        }
        for (uint256 i = 0; i < PARTIES; ++i) {
            ISettlement.Payee memory payee = settlement.payeeOf(parties[i]);
            assertTrue(payee.cur >= waiting[i][0], "credit of this epoch for its lanes");
            assertTrue(payee.prev >= waiting[i][1], "credit of the last epoch for its lanes");
        }
    }

    /* THE END */

    /// @notice All leave, with nothing but time: nobody answers, votes or helps.
    /// @return elapsed Seconds that took.
    function exitAll() external returns (uint256 elapsed) {
        uint256 start = VM.getBlockTimestamp();
        for (uint256 level = 0; level < 3; ++level) {
            for (uint256 i = openTrials.length; i != 0; --i) {
                _push(openTrials[i - 1]);
            }
            _warpTo(VM.getBlockTimestamp() + RESPONSE + 1);
        }
        while (openAsks.length != 0) {
            _end(openAsks[openAsks.length - 1]);
        }
        while (openTrials.length != 0) {
            _close(address(this), openTrials[openTrials.length - 1]);
        }
        _did("end of disputes");
        _same(settlement.held(), 0, "held after all disputes");
        _askForAll();
        _warpTo(VM.getBlockTimestamp() + (EXIT_DELAY > 2 * EPOCH ? EXIT_DELAY : 2 * EPOCH));
        _takeAll();
        uint256 left = settlement.burnt() + giftTotal;
        _same(token.balanceOf(address(settlement)), left, "only what was burnt or given remains");
        return VM.getBlockTimestamp() - start;
    }

    /// @dev Seats the jury of a case; one that did not decide gives way to the next.
    function _push(uint256 id) private {
        if (jury.caseOf(id).verdict != 0) return;
        bool isOver = VM.getBlockTimestamp() > jury.caseOf(id).deadline;
        if (jury.caseOf(id).juryHash != 0 && isOver && jury.caseOf(id).level < 2) {
            jury.escalate(id);
        }
        if (jury.caseOf(id).juryHash == 0 && _seat(id, false)) _seat(id, false);
    }

    function _end(uint256 id) internal virtual {
        _timeout(address(this), id);
    }

    function _askForAll() private {
        for (uint256 i = 0; i < PARTIES; ++i) {
            address party = parties[i];
            uint256 amount = settlement.requesterOf(party).balance;
            VM.prank(party);
            settlement.requestWithdraw(amount);
            amount = settlement.coordinatorOf(party).bond;
            VM.prank(party);
            settlement.requestUnbond(amount);
            amount = settlement.operatorOf(party).stake;
            VM.prank(party);
            if (amount != 0) settlement.requestUnstake(party, amount);
            else settlement.SEED_TAG();
        }
    }

    function _takeAll() private {
        for (uint256 i = 0; i < PARTIES; ++i) {
            address party = parties[i];
            if (settlement.requesterOf(party).balance != 0) {
                VM.prank(party);
                settlement.withdraw(party);
            }
            if (settlement.coordinatorOf(party).bond != 0) {
                VM.prank(party);
                settlement.unbond(party);
            }
            if (settlement.operatorOf(party).stake != 0) {
                VM.prank(party);
                settlement.unstake(party);
            }
            if (settlement.payeeOf(party).available != 0) settlement.claim(party);
        }
        _did("all left");
    }
}
