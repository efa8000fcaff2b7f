// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.37;

import {Disputes} from "../../src/Disputes.sol";
import {Jury} from "../../src/Jury.sol";
import {Settlement} from "../../src/Settlement.sol";
import {ErrorsLib} from "../../src/libraries/ErrorsLib.sol";
import {VM} from "../Vm.sol";
import {Market} from "./Market.sol";

/// @notice Disputes without the sum tree: a leaf is whatever the caller says.
contract CredulousDisputes is Disputes {
    constructor(address settlement) Disputes(settlement) {}

    function voidLeaf(Place calldata place, uint64 price) external {
        _voidLeaf(place, price, Cause.BAD_LEAF);
    }

    function holdLane(Place calldata place) external {
        _holdLane(place);
    }
}

/// @notice The sum tree keeps leaves within their lane. Were it broken, the money would still be.
contract LaneLimitTest is Market {
    CredulousDisputes internal credulous;

    function setUp() public override {
        super.setUp();
        address expected = VM.computeCreateAddress(address(this), VM.getNonce(address(this)) + 2);
        credulous = new CredulousDisputes(expected);
        jury = new Jury(expected);
        settlement = new Settlement(_config(address(token)), credulous, jury);
        disputes = credulous;
        _setUpParties();
        _writeSheet();
        // Another batch gives the provider credit that a broken lane could reach for.
        _postSheet();
        _postSheet();
    }

    function test_RevertWhen_ALeafIsMoreThanItsLane() external {
        uint64 amount = uint64(_amount(WORK));
        _expectExceeded(amount, amount + 1);
        credulous.voidLeaf(_placeOf(WORK, 0), amount + 1);
        credulous.voidLeaf(_placeOf(WORK, 0), amount);
    }

    function test_RevertWhen_LeavesTogetherAreMoreThanTheirLane() external {
        uint64 amount = uint64(_amount(WORK));
        credulous.voidLeaf(_placeOf(WORK, 0), amount);
        _expectExceeded(amount, amount + 1);
        credulous.voidLeaf(_placeOf(WORK, 1), 1);
        assertEq(_credit(provider), amount, "the other batch's credit is untouched");
    }

    function test_RevertWhen_ALeafIsMoreThanIsHeldOfItsLane() external {
        uint64 amount = uint64(_amount(WORK));
        credulous.holdLane(_placeOf(WORK, 0));
        VM.expectRevert(abi.encodeWithSignature("Panic(uint256)", 0x11));
        credulous.voidLeaf(_placeOf(WORK, 1), amount + 1);
        assertEq(_credit(provider), amount, "the other batch's credit is untouched");
    }

    function _expectExceeded(uint64 expected, uint64 actual) internal {
        VM.expectRevert(abi.encodeWithSelector(ErrorsLib.LaneExceeded.selector, expected, actual));
    }
}
