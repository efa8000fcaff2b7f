// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.37;

import {ISettlement} from "../../src/interfaces/ISettlement.sol";
import {Accounts} from "../../src/libraries/Accounts.sol";
import {ErrorsLib} from "../../src/libraries/ErrorsLib.sol";
import {Fixture} from "../Fixture.sol";
import {VM} from "../Vm.sol";

contract AccountsTest is Fixture {
    using Accounts for uint256;

    /* ROLLING */

    function testFuzz_RollingConservesAndOnlyMovesForward(
        uint32 a,
        uint32 p,
        uint32 c,
        uint16 epoch,
        uint16 later
    ) external pure {
        ISettlement.Payee memory payee = _word(a, p, c, epoch).roll(uint32(epoch) + later).unpack();
        uint256 total = uint256(a) + p + c;
        assertEq(uint256(payee.available) + payee.prev + payee.cur, total, "conserved");
        assertEq(payee.epoch, uint256(epoch) + later, "epoch");
        assertEq(payee.cur, later == 0 ? c : 0, "cur");
        assertEq(payee.prev, later == 0 ? p : later == 1 ? c : 0, "prev");
    }

    function testFuzz_RollingInStepsIsRollingAtOnce(uint64 p, uint64 c, uint8 steps) external pure {
        uint256 word = _word(0, p / 2, c / 2, 9);
        uint256 inSteps = word;
        for (uint32 i = 1; i <= steps; ++i) {
            inSteps = inSteps.roll(9 + i);
        }
        assertEq(word.roll(9 + uint32(steps)), inSteps, "same");
    }

    /// @dev The largest holdings there can be, wherever they lie: nothing runs over into the next.
    function test_TheLargestAmountsStayApart() external pure {
        uint64 max = type(uint64).max;
        uint32 last = type(uint32).max;
        _assertPayee(_word(max, 0, 0, last), max, 0, 0, last);
        _assertPayee(_word(0, max, 0, last - 1).roll(last), max, 0, 0, last);
        _assertPayee(_word(0, 0, max, last - 1).roll(last), 0, max, 0, last);
        _assertPayee(_word(0, 0, max, 0).roll(last), max, 0, 0, last);
        _assertPayee(_word(0, 0, max - 1, last).put(last, 1), 0, 0, max, last);
        _assertPayee(_word(0, max - 1, 0, last).put(last - 1, 1), 0, max, 0, last);
        _assertPayee(_word(max - 1, 0, 0, last).put(last - 2, 1), max, 0, 0, last);
    }

    /* EARNING AND TAKING BACK */

    function testFuzz_CreditGoesWhereItWouldBe(uint32 amount, uint8 age, uint8 wait) external pure {
        uint32 earned = 1000;
        uint32 now_ = earned + age;
        uint256 late = _word(5, 6, 7, now_).put(earned, amount);
        ISettlement.Payee memory payee = late.unpack();
        assertEq(payee.cur, 7 + (age == 0 ? uint256(amount) : 0), "cur");
        assertEq(payee.prev, 6 + (age == 1 ? uint256(amount) : 0), "prev");
        assertEq(payee.available, 5 + (age > 1 ? uint256(amount) : 0), "available");
        // As if it had been there all the time.
        uint256 early = _word(0, 0, 0, earned).put(earned, amount).roll(now_ + wait);
        assertEq(_word(0, 0, 0, now_).put(earned, amount).roll(now_ + wait), early, "matures alike");
    }

    function testFuzz_WhatIsTakenBackIsWhatWasEarned(uint64 credit, uint64 amount, bool isOld)
        external
    {
        uint32 epoch = isOld ? 49 : 50;
        uint256 word = isOld ? _word(1, credit, 2, 50) : _word(1, 2, credit, 50);
        if (amount > credit) {
            bytes4 selector = ErrorsLib.InsufficientCredit.selector;
            VM.expectRevert(abi.encodeWithSelector(selector, amount, credit));
            this.draw(word, epoch, amount);
        } else {
            assertEq(word.draw(epoch, amount).put(epoch, amount), word, "and back");
            uint64 rest = credit - amount;
            (uint64 p, uint64 c) = isOld ? (rest, uint64(2)) : (2, rest);
            _assertPayee(word.draw(epoch, amount), 1, p, c, 50);
        }
    }

    function test_AllThatWaitsIsTakenAndNoMore() external {
        for (uint32 epoch = 49; epoch <= 50; ++epoch) {
            uint256 word = epoch == 50 ? _word(9, 9, 3, 50) : _word(9, 3, 9, 50);
            uint256 rest = epoch == 50 ? _word(9, 9, 0, 50) : _word(9, 0, 9, 50);
            assertEq(word.draw(epoch, 3), rest, "all");
            VM.expectRevert(abi.encodeWithSelector(ErrorsLib.InsufficientCredit.selector, 4, 3));
            this.draw(word, epoch, 4);
        }
    }

    function testFuzz_RevertWhen_CreditHasMatured(uint16 age) external {
        uint32 epoch = 100_000 - 2 - uint32(age);
        bytes4 selector = ErrorsLib.CreditMatured.selector;
        VM.expectRevert(abi.encodeWithSelector(selector, 99_999, epoch));
        this.draw(_word(1000, 1000, 1000, 100_000), epoch, 0);
    }

    function testFuzz_EmptyingTakesWhatIsAvailableOnly(uint64 a, uint64 p, uint64 c, uint32 epoch)
        external
        pure
    {
        (uint64 available, uint256 rest) = _word(a, p, c, epoch).empty();
        assertEq(available, a, "available");
        _assertPayee(rest, 0, p, c, epoch);
    }

    /* INTERNAL */

    /// @dev External, so that a revert can be expected.
    function draw(uint256 word, uint32 epoch, uint64 amount) external pure returns (uint256) {
        return word.draw(epoch, amount);
    }

    function _word(uint64 available, uint64 prev, uint64 cur, uint32 epoch)
        internal
        pure
        returns (uint256)
    {
        return uint256(bytes32(abi.encodePacked(available, prev, cur, uint32(0), epoch)));
    }

    function _assertPayee(uint256 word, uint64 a, uint64 p, uint64 c, uint32 epoch) internal pure {
        ISettlement.Payee memory expected =
            ISettlement.Payee({available: a, prev: p, cur: c, epoch: epoch});
        bytes32 actual = keccak256(abi.encode(word.unpack()));
        assertEq(actual, keccak256(abi.encode(expected)), "payee");
    }
}
