// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.37;

import {Settlement} from "../../src/Settlement.sol";
import {IDisputes} from "../../src/interfaces/IDisputes.sol";
import {IJury} from "../../src/interfaces/IJury.sol";
import {ISettlement} from "../../src/interfaces/ISettlement.sol";
import {Accounts} from "../../src/libraries/Accounts.sol";
import {TestToken} from "../../src/mocks/TestToken.sol";
import {Fixture} from "../Fixture.sol";
import {VM} from "../Vm.sol";

/// @notice A judge of whatever Settlement asks it: addresses cannot be known beforehand in a proof.
contract AnyJudge {
    function SETTLEMENT() external view returns (address) {
        return msg.sender;
    }
}

/// @notice Credit through time. Run by scripts/prove-contracts, for all inputs.
contract AccountsProofs is Fixture {
    using Accounts for uint256;

    function setUp() public override {
        token = new TestToken();
        address judge = address(new AnyJudge());
        settlement = new Settlement(_config(address(token)), IDisputes(judge), IJury(judge));
    }

    /// @notice Rolling moves credit between buckets and loses none; what matures is old enough.
    function check_RollKeepsAllAndMaturesInTime(
        uint64 available,
        uint64 prev,
        uint64 cur,
        uint32 epoch,
        uint32 current
    ) external {
        uint256 total = uint256(available) + prev + cur;
        VM.assume(total <= type(uint64).max && epoch <= current && epoch < type(uint32).max);
        uint256 word = _pack(available, prev, cur, epoch);
        ISettlement.Payee memory payee = word.roll(current).unpack();
        assert(uint256(payee.available) + payee.prev + payee.cur == total);
        assert(payee.epoch == current);
        uint256 age = current - epoch;
        uint256 matured = age == 0 ? 0 : age == 1 ? prev : uint256(prev) + cur;
        assert(payee.available == available + matured);
        assert(payee.prev == (age == 0 ? prev : age == 1 ? cur : 0));
    }

    /// @notice What is put can be drawn from where it is, and then all is as before.
    function check_PutAndDrawCancel(
        uint64 available,
        uint64 prev,
        uint64 cur,
        uint32 current,
        uint32 epoch,
        uint64 amount
    ) external {
        uint256 total = uint256(available) + prev + cur + amount;
        VM.assume(total <= type(uint64).max && epoch <= current && current < type(uint32).max);
        uint256 word = _pack(available, prev, cur, current);
        uint256 more = word.put(epoch, amount);
        ISettlement.Payee memory payee = more.unpack();
        assert(payee.epoch == current);
        assert(uint256(payee.available) + payee.prev + payee.cur == total);
        if (uint256(epoch) + 1 < current) {
            assert(payee.available == available + amount);
            return;
        }
        assert(more.draw(epoch, amount) == word);
    }

    /// @notice What matured goes, all else stays.
    function check_EmptyTakesWhatMatured(uint256 word) external pure {
        (uint64 available, uint256 rest) = word.empty();
        ISettlement.Payee memory before = word.unpack();
        ISettlement.Payee memory left = rest.unpack();
        assert(available == before.available && left.available == 0);
        assert(left.prev == before.prev && left.cur == before.cur && left.epoch == before.epoch);
    }

    /// @notice A payment at any time is whole at any later time, and available from the second epoch
    /// after its own: never earlier, never later.
    function check_PaymentMaturesInTime(uint64 amount, uint32 postedAt, uint32 later) external {
        VM.assume(amount != 0 && amount <= 1e12);
        VM.assume(postedAt >= START && later >= postedAt);
        _bond(COORDINATOR, MIN_BOND);
        _deposit(ALICE, 1e12);
        VM.warp(postedAt);
        _pay(PROVIDER, amount);
        VM.warp(later);
        ISettlement.Payee memory payee = settlement.payeeOf(PROVIDER);
        assert(uint256(payee.available) + payee.prev + payee.cur == amount);
        bool isDue = later / EPOCH >= postedAt / EPOCH + 2;
        assert(payee.available == (isDue ? amount : 0));
        assert(settlement.requesterOf(ALICE).balance == 1e12 - amount);
    }

    /// @notice What two lanes take from a requester is what they give, for any amounts.
    function check_LanesBalance(uint64 first, uint64 second) external {
        uint64 funds = type(uint64).max - MIN_BOND;
        _bond(COORDINATOR, MIN_BOND);
        _deposit(ALICE, funds);
        bytes memory lanes = bytes.concat(_lane(0, 0, 1, first), _lane(0, 1, 1, second));
        VM.prank(COORDINATOR);
        try settlement.postBatch(NEVER, DATA, ROOT, _one(ALICE), _two(PROVIDER, BOB), lanes) {
            assert(uint256(first) + second <= funds);
            assert(settlement.requesterOf(ALICE).balance == funds - first - second);
            assert(settlement.payeeOf(PROVIDER).cur == first);
            assert(settlement.payeeOf(BOB).cur == second);
        } catch {
            assert(uint256(first) + second > funds);
        }
    }

    /// @dev As Accounts says that a word is laid out.
    function _pack(uint64 available, uint64 prev, uint64 cur, uint32 epoch)
        private
        pure
        returns (uint256)
    {
        return uint256(bytes32(abi.encodePacked(available, prev, cur, uint32(0), epoch)));
    }
}
