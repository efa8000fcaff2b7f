// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.37;

import {Handler} from "./Handler.sol";
import {HonestHandler} from "./HonestHandler.sol";

/// @notice What a campaign may call: every public action of the handler, by name.
abstract contract Campaign {
    struct FuzzSelector {
        address addr;
        bytes4[] selectors;
    }

    /// @dev What must have happened, and what must have been refused.
    string private constant MONEY = "deposit,requestWithdraw,withdraw,withdraw too "
        "early,bond,requestUnbond,unbond,unbond too "
        "early,stake,requestUnstake,unstake,unstake too "
        "early,changePayout,claim,claimTo,claimTo twice,wait,gift,trespass,";
    string private constant DISPUTES = "postGood,postBad,challengeLeaf,challenge of what is "
        "void,challengeWithheld,challenge of padding as a leaf,respond,respond to "
        "withheld,wrong answer,timeout too early,proveBadLeaf,proof too late or "
        "twice,false proof of a bad leaf,false proof of a double,proveDouble,double of "
        "what is void,proveConflict,conflict twice,";
    string private constant JURY = "settleDirect,settleDirect again,direct out of time,direct twice,accuse,accuse "
        "out of time,seatJury,redraw,decide: right,decide: false,appeal,appeal out of "
        "time,escalate,escalate too early,close of what is void,close too "
        "early,close: right,close: false,accuseReceipt,accuse receipt twice,close of a receipt,debt,debt paid";
    uint256 internal constant RESPONSE = 1 days;
    uint256 internal constant EXIT_DELAY = 7 days;

    Handler internal handler;

    function targetContracts() external view returns (address[] memory list) {
        list = new address[](1);
        list[0] = address(handler);
    }

    function targetSelectors() external view returns (FuzzSelector[] memory list) {
        list = new FuzzSelector[](1);
        list[0] = FuzzSelector({addr: address(handler), selectors: _actions()});
    }

    /// @notice Conservation, every ledger by logs, every lane and what is held (see Handler.check);
    /// in one function, because forge runs a campaign for each.
    function invariant_MoneyIsWhereTheRulesSay() public {
        handler.check();
    }

    /// @notice From any state reached, all get out with nothing but time, and not much of it.
    function afterInvariant() public {
        handler.checkAll();
        uint256 elapsed = handler.exitAll();
        require(elapsed <= 3 * (RESPONSE + 1) + EXIT_DELAY, "the way out is too long");
        handler.checkAll();
    }

    /// @notice A fixed campaign in which every action must have worked, so nothing above is true for
    /// want of anything happening.
    function test_EveryActionWorksInACampaign() external {
        bytes4[] memory actions = _actions();
        for (uint256 i = 0; i < 4000; ++i) {
            uint256 seed = uint256(keccak256(abi.encode("campaign", i)));
            bytes memory data = abi.encodeWithSelector(actions[seed % actions.length], seed >> 8);
            (bool ok, bytes memory why) = address(handler).call(data);
            // What cannot be meant now is not counted.
            if (!ok && keccak256(why) != keccak256("FOUNDRY::ASSUME")) handler.fail(i, why);
            if (i % 8 == 0) handler.check();
        }
        afterInvariant();
        string[] memory names = _names();
        for (uint256 i = 0; i < names.length; ++i) {
            require(handler.successes(names[i]) != 0, string.concat("never: ", names[i]));
        }
    }

    /// @dev More of what must have happened, each after a comma.
    function _more() internal pure virtual returns (string memory);

    function _names() private pure returns (string[] memory list) {
        bytes memory text = bytes(string.concat(MONEY, DISPUTES, JURY, _more()));
        uint256 count = 1;
        for (uint256 i = 0; i < text.length; ++i) {
            if (text[i] == ",") ++count;
        }
        list = new string[](count);
        uint256 next = 0;
        for (uint256 i = 0; i < text.length; ++i) {
            if (text[i] == ",") ++next;
            else list[next] = string.concat(list[next], string(abi.encodePacked(text[i])));
        }
    }

    /// @dev `postGood` and `postBad` come more than once, because all else needs them.
    function _actions() internal view returns (bytes4[] memory list) {
        bytes4[43] memory all = [
            handler.deposit.selector,
            handler.requestWithdraw.selector,
            handler.withdraw.selector,
            handler.bond.selector,
            handler.requestUnbond.selector,
            handler.unbond.selector,
            handler.stake.selector,
            handler.requestUnstake.selector,
            handler.unstake.selector,
            handler.changePayout.selector,
            handler.claim.selector,
            handler.claimTo.selector,
            handler.wait.selector,
            handler.gift.selector,
            handler.trespass.selector,
            handler.postGood.selector,
            handler.postGood.selector,
            handler.postBad.selector,
            handler.postBad.selector,
            handler.accuse.selector,
            handler.accuseReceipt.selector,
            handler.accuse.selector,
            handler.challengeLeaf.selector,
            handler.challengeWithheld.selector,
            handler.challengeLeaf.selector,
            handler.challengeWithheld.selector,
            handler.respond.selector,
            handler.timeout.selector,
            handler.proveBadLeaf.selector,
            handler.proveFalsely.selector,
            handler.proveDouble.selector,
            handler.proveConflict.selector,
            handler.settleDirect.selector,
            handler.seatJury.selector,
            handler.seatJury.selector,
            handler.decide.selector,
            handler.close.selector,
            handler.decide.selector,
            handler.appeal.selector,
            handler.escalate.selector,
            handler.escalate.selector,
            handler.close.selector,
            handler.close.selector
        ];
        list = new bytes4[](all.length);
        for (uint256 i = 0; i < all.length; ++i) {
            list[i] = all[i];
        }
    }
}

/// @notice Everybody does whatever can be done.
contract MarketCampaign is Campaign {
    function setUp() public {
        handler = new Handler();
        handler.setUp();
    }

    function _more() internal pure override returns (string memory) {
        return ",close: none,timeout,timeout of what is void,timeout twice,decide too late";
    }
}

/// @notice Coordinator, provider, verifier and requester of one kind are honest and answer in time,
/// most jurors are honest, and one watcher looks at each batch while it can be challenged.
contract HonestCampaign is Campaign {
    function setUp() public {
        handler = new HonestHandler();
        handler.setUp();
    }

    /// @dev The watcher is always first to end what nobody answered. And jurors that are mostly honest
    /// convict more often.
    function _more() internal pure override returns (string memory) {
        return ",close of what is void: false";
    }
}
