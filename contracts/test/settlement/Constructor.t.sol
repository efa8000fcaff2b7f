// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.37;

import {Settlement} from "../../src/Settlement.sol";
import {ISettlement} from "../../src/interfaces/ISettlement.sol";
import {ErrorsLib} from "../../src/libraries/ErrorsLib.sol";
import {Fixture} from "../Fixture.sol";
import {VM} from "../Vm.sol";
import {OddToken} from "../mocks/OddToken.sol";

contract ConstructorTest is Fixture {
    function test_ParametersAreReadable() external view {
        assertEq(settlement.TOKEN(), address(token), "token");
        assertEq(settlement.EPOCH(), EPOCH, "epoch");
        assertEq(settlement.OPEN(), OPEN, "open");
        assertEq(settlement.RESPONSE(), RESPONSE, "response");
        assertEq(settlement.EXIT_DELAY(), EXIT_DELAY, "exit delay");
        assertEq(settlement.ORDER_LIFETIME(), EXIT_DELAY - OPEN - RESPONSE, "order lifetime");
        assertEq(settlement.SEED_DELAY(), SEED_DELAY, "seed delay");
        assertEq(settlement.NONCE_TIMEOUT(), NONCE_TIMEOUT, "nonce timeout");
        assertEq(settlement.MIN_BOND(), MIN_BOND, "bond");
        assertEq(settlement.MIN_STAKE(), MIN_STAKE, "stake");
        assertEq(settlement.MAX_LANES(), 256, "lanes");
        assertEq(settlement.currentEpoch(), 7000, "current epoch");
    }

    function test_DomainSeparatorFollowsTheChainId() external {
        bytes32 before = settlement.DOMAIN_SEPARATOR();
        assertEq(before, _separator(31337), "this chain");
        VM.chainId(99);
        assertEq(settlement.DOMAIN_SEPARATOR(), _separator(99), "after a split of the chain");
    }

    function test_SecondsServeAsDevnetTimes() external {
        ISettlement.Config memory config = _config(address(token));
        (config.epoch, config.open, config.response, config.exitDelay) = (3, 1, 1, 3);
        assertEq(new Settlement(config).ORDER_LIFETIME(), 1, "order lifetime");
    }

    function test_RevertWhen_TokenHasSevenDecimals() external {
        address odd = address(new OddToken(7));
        VM.expectRevert(abi.encodeWithSelector(ErrorsLib.TooManyDecimals.selector, 6, 7));
        new Settlement(_config(odd));
    }

    function test_RevertWhen_DisputeCanOutlastAnEpoch() external {
        ISettlement.Config memory config = _config(address(token));
        config.epoch = OPEN + RESPONSE;
        _expectBad("epoch", OPEN + RESPONSE + 1, config.epoch);
        new Settlement(config);
        config.epoch += 1;
        new Settlement(config);
    }

    function test_RevertWhen_BondCanLeaveWithinAnEpoch() external {
        ISettlement.Config memory config = _config(address(token));
        config.exitDelay = EPOCH - 1;
        _expectBad("exitDelay", EPOCH, config.exitDelay);
        new Settlement(config);
        config.exitDelay = EPOCH;
        new Settlement(config);
    }

    function test_RevertWhen_AParameterIsZero() external {
        ISettlement.Config memory config = _config(address(token));
        config.open = 0;
        _expectBad("open", 1, 0);
        new Settlement(config);
        config = _config(address(token));
        config.response = 0;
        _expectBad("response", 1, 0);
        new Settlement(config);
        config = _config(address(token));
        config.minBond = 0;
        _expectBad("minBond", 1, 0);
        new Settlement(config);
        config = _config(address(token));
        config.minStake = 0;
        _expectBad("minStake", 1, 0);
        new Settlement(config);
        config = _config(address(token));
        config.seedDelay = 0;
        _expectBad("seedDelay", 1, 0);
        new Settlement(config);
    }

    function test_RevertWhen_NoBlockIsLeftForTheSeed() external {
        ISettlement.Config memory config = _config(address(token));
        config.seedDelay = 8191;
        _expectBad("seedDelay", 8190, 8191);
        new Settlement(config);
        config = _config(address(token));
        config.nonceTimeout = 8191;
        _expectBad("nonceTimeout", 8190, 8191);
        new Settlement(config);
    }

    function _expectBad(bytes32 name, uint256 bound, uint256 actual) internal {
        VM.expectRevert(abi.encodeWithSelector(ErrorsLib.BadConfig.selector, name, bound, actual));
    }

    function _separator(uint256 chainId) internal view returns (bytes32) {
        return keccak256(
            abi.encode(
                keccak256(
                    "EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)"
                ),
                keccak256("gpumarket"),
                keccak256("1"),
                chainId,
                address(settlement)
            )
        );
    }
}
