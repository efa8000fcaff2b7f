// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.37;

import {Disputes} from "../../src/Disputes.sol";
import {Jury} from "../../src/Jury.sol";
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
        assertEq(settlement.CHALLENGE_BOND(), CHALLENGE_BOND, "challenge bond");
        assertEq(settlement.JURY_BOND(), JURY_BOND, "jury bond");
        assertEq(settlement.BOND_SLASH(), BOND_SLASH, "bond slash");
        assertEq(settlement.STAKE_SLASH(), STAKE_SLASH, "stake slash");
        assertEq(disputes.SETTLEMENT(), address(settlement), "of the disputes");
        assertEq(jury.SETTLEMENT(), address(settlement), "of the jury");
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
        (config.epoch, config.open, config.response, config.exitDelay) = (3, 1, 1, 6);
        _deploy(config);
        assertEq(settlement.ORDER_LIFETIME(), 4, "order lifetime");
    }

    function test_RevertWhen_TokenHasSevenDecimals() external {
        ISettlement.Config memory config = _config(address(new OddToken(7)));
        _createJudges();
        VM.expectRevert(abi.encodeWithSelector(ErrorsLib.TooManyDecimals.selector, 6, 7));
        new Settlement(config, disputes, jury);
    }

    function test_RevertWhen_DisputeCanOutlastAnEpoch() external {
        ISettlement.Config memory config = _config(address(token));
        uint64 least = OPEN + 2 * RESPONSE;
        config.epoch = least;
        _deploy(config);
        config.epoch = least - 1;
        _expectBad(config, "epoch", least, least - 1);
    }

    /// @notice Credit of an epoch's first second can be taken back for two epochs, so a bond that
    /// left before would leave its last faults unpunished.
    function test_RevertWhen_BondCanLeaveBeforeTheCreditMatures() external {
        ISettlement.Config memory config = _config(address(token));
        config.exitDelay = 2 * EPOCH;
        _deploy(config);
        config.exitDelay -= 1;
        _expectBad(config, "exitDelay", 2 * EPOCH, config.exitDelay);
    }

    function test_RevertWhen_ABatchCanCostFewerThanFourSlashes() external {
        ISettlement.Config memory config = _config(address(token));
        config.minBond = 4 * BOND_SLASH;
        _deploy(config);
        config.minBond -= 1;
        _expectBad(config, "minBond", 4 * BOND_SLASH, config.minBond);
        // Beyond 64 bits too: the product is not taken modulo anything.
        config.bondSlash = uint64(1) << 62;
        _expectBad(config, "minBond", uint256(1) << 64, config.minBond);
    }

    function test_RevertWhen_AStakeCannotCoverASlash() external {
        ISettlement.Config memory config = _config(address(token));
        config.minStake = STAKE_SLASH;
        _deploy(config);
        config.minStake -= 1;
        _expectBad(config, "minStake", STAKE_SLASH, config.minStake);
    }

    function test_RevertWhen_AParameterIsZero() external {
        ISettlement.Config memory config = _config(address(token));
        config.open = 0;
        _expectBad(config, "open", 1, 0);
        config = _config(address(token));
        config.response = 0;
        _expectBad(config, "response", 1, 0);
        config = _config(address(token));
        config.challengeBond = 0;
        _expectBad(config, "challengeBond", 1, 0);
        config = _config(address(token));
        config.juryBond = 0;
        _expectBad(config, "juryBond", 1, 0);
        config = _config(address(token));
        config.bondSlash = 0;
        _expectBad(config, "bondSlash", 1, 0);
        config = _config(address(token));
        config.stakeSlash = 0;
        _expectBad(config, "stakeSlash", 1, 0);
        config = _config(address(token));
        config.seedDelay = 0;
        _expectBad(config, "seedDelay", 1, 0);
    }

    function test_RevertWhen_NoBlockIsLeftForTheSeed() external {
        ISettlement.Config memory config = _config(address(token));
        config.seedDelay = 8190;
        config.nonceTimeout = 8190;
        _deploy(config);
        config.seedDelay = 8191;
        _expectBad(config, "seedDelay", 8190, 8191);
        config = _config(address(token));
        config.nonceTimeout = 8191;
        _expectBad(config, "nonceTimeout", 8190, 8191);
    }

    function test_RevertWhen_AJudgeWasMadeForAnotherSettlement() external {
        ISettlement.Config memory config = _config(address(token));
        Disputes otherDisputes = disputes;
        Jury otherJury = jury;
        address expected = _createJudges();
        _expectWrongJudge(_next(), address(settlement));
        new Settlement(config, otherDisputes, jury);
        _createJudges();
        _expectWrongJudge(_next(), address(settlement));
        new Settlement(config, disputes, otherJury);
        expected = _createJudges();
        settlement = new Settlement(config, disputes, jury);
        assertEq(address(settlement), expected, "the address that was foretold");
        assertEq(address(settlement.DISPUTES()), address(disputes), "disputes");
        assertEq(address(settlement.JURY()), address(jury), "jury");
    }

    /* INTERNAL */

    /// @dev Judges for the contract that is created next.
    function _createJudges() internal returns (address expected) {
        expected = VM.computeCreateAddress(address(this), VM.getNonce(address(this)) + 2);
        disputes = new Disputes(expected);
        jury = new Jury(expected);
    }

    function _next() internal view returns (address) {
        return VM.computeCreateAddress(address(this), VM.getNonce(address(this)));
    }

    function _expectWrongJudge(address expected, address actual) internal {
        VM.expectRevert(
            abi.encodeWithSelector(
                ErrorsLib.WrongParty.selector, bytes32("SETTLEMENT"), expected, actual
            )
        );
    }

    function _expectBad(
        ISettlement.Config memory config,
        bytes32 name,
        uint256 bound,
        uint256 actual
    ) internal {
        _createJudges();
        VM.expectRevert(abi.encodeWithSelector(ErrorsLib.BadConfig.selector, name, bound, actual));
        new Settlement(config, disputes, jury);
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
