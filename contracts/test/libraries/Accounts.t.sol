// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.37;

import {ISettlement} from "../../src/interfaces/ISettlement.sol";
import {Accounts} from "../../src/libraries/Accounts.sol";
import {Fixture} from "../Fixture.sol";

contract AccountsTest is Fixture {
    using Accounts for ISettlement.Payee;

    function testFuzz_RollingConservesAndOnlyMovesForward(
        uint32 a,
        uint32 p,
        uint32 c,
        uint16 epoch,
        uint16 later
    ) external pure {
        ISettlement.Payee memory payee =
            ISettlement.Payee({available: a, prev: p, cur: c, epoch: epoch});
        uint256 total = uint256(a) + p + c;
        payee.roll(uint32(epoch) + later);
        assertEq(uint256(payee.available) + payee.prev + payee.cur, total, "conserved");
        assertEq(payee.epoch, uint256(epoch) + later, "epoch");
        assertEq(payee.cur, later == 0 ? c : 0, "cur");
        assertEq(payee.prev, later == 0 ? p : later == 1 ? c : 0, "prev");
    }

    function testFuzz_RollingInStepsIsRollingAtOnce(uint32 p, uint32 c, uint8 steps) external pure {
        ISettlement.Payee memory atOnce =
            ISettlement.Payee({available: 0, prev: p, cur: c, epoch: 9});
        ISettlement.Payee memory inSteps =
            ISettlement.Payee({available: 0, prev: p, cur: c, epoch: 9});
        atOnce.roll(9 + uint32(steps));
        for (uint32 i = 1; i <= steps; ++i) {
            inSteps.roll(9 + i);
        }
        assertEq(keccak256(abi.encode(atOnce)), keccak256(abi.encode(inSteps)), "same");
    }
}
