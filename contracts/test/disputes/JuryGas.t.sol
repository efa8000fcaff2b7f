// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.37;

import {VM} from "../Vm.sol";
import {Court} from "./Court.sol";

/// @notice The dearest jury there can be still fits into a transaction.
/// @dev Isolated, as in Gas.t.sol: every slot is cold.
/// forge-config: default.isolate = true
/// forge-config: long.isolate = true
contract JuryGasTest is Court {
    /// @dev EIP-7825: no transaction may use more.
    uint256 internal constant TRANSACTION_GAS_MAX = 1 << 24;

    function setUp() public override {
        _begin(400);
    }

    /// @dev Nobody on a long list is left, so all draws are made, and all in vain.
    function test_DrawingInVainFitsIntoATransaction() external {
        uint256 id = _accuse(0);
        for (uint256 i = 0; i < verifiers.length; ++i) {
            VM.prank(verifiers[i]);
            settlement.requestUnstake(verifiers[i], MIN_STAKE);
        }
        bytes memory call_ = abi.encodeCall(jury.seatJury, (id, _reachSeedBlock(id, _mix(id))));
        uint256 before = gasleft();
        (bool ok,) = address(jury).call{gas: TRANSACTION_GAS_MAX}(call_);
        uint256 used = before - gasleft();
        assertTrue(ok, "it fits");
        assertTrue(used > 1_000_000, "and was measured as a transaction, with cold slots");
        assertTrue(used < TRANSACTION_GAS_MAX / 2, "with room");
    }
}
