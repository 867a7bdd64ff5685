"""Every threat by its number, and the tests that play it: a threat without a test says why.

Owns the table. `tests/attacks/test_threats.py` reads it beside the tree: a test that is gone, or a number without either, fails there.
"""

from __future__ import annotations

from typing import Final

DISPATCH, REPLAY, CALLER, HTTP = (f"tests/bus/test_{name}.py" for name in ("dispatch", "replay", "caller", "http"))
DECIDING, VERIFY, FOLLOWER, FOLLOWED, OPENING, REPAIR = (
    f"tests/bus/journal/test_{name}.py" for name in ("deciding", "verify", "follower", "followed_world", "opening", "repair")
)
COMMANDS, BUS, JAIL, TENANTS, BUILD, SECRETS, ARCHIVE = (
    f"tests/attacks/test_{name}.py" for name in ("commands", "bus", "jail", "tenants", "build_network", "secrets", "archive")
)
NATS, NATS_KEYS, CLUSTER = "tests/attacks/test_nats.py", "tests/keys/test_nats.py", "tests/bus/test_nats_cluster.py"
FAN_OUT, BATCHES = "tests/bus/test_fan_out.py", "tests/bus/test_batches.py"
SUCCESSION = "tests/keys/test_succession.py"
JOINING, INVITED, JOINED = "tests/keys/test_joining.py", "tests/ring0/test_joining.py", "tests/e2e/test_joining.py"
TRUST, SIGNING, GROUND = "tests/keys/test_trust.py", "tests/keys/test_signing.py", "tests/enjin/test_ground.py"
TERM, TERMS = "tests/keys/test_term.py", "tests/bus/test_term.py"
CLOCK, TIMING = "tests/bus/test_clock.py", "tests/compartments/test_timing.py"
RVK, TOLD = "tests/keys/test_revocation.py", "tests/compartments/test_revocations.py"
BEACON, PARENTS = "tests/keys/test_beacon.py", "tests/compartments/test_beacons.py"
ROUTING, APPROVALS, TIDY = "tests/ring1/test_routing.py", "tests/ring1/test_approvals.py", "tests/test_tidy.py"
ENDS = "tests/ring1/test_destroying.py"
WRONG: Final = f"{COMMANDS}::test_n01_a_wrong_command_is_refused_at_its_stage"

TESTS: Final[dict[int, tuple[str, ...]]] = {
    1: (WRONG, f"{SIGNING}::test_n01_one_bit_flipped_anywhere_is_refused", f"{DISPATCH}::test_n01_every_bit_counts"),
    2: (WRONG, f"{COMMANDS}::test_n02_another_subject_than_signed", f"{TRUST}::test_n02_a_message_is_not_a_grant"),
    3: (WRONG, f"{GROUND}::test_n03_second_spellings_are_refused"),
    4: (
        f"{GROUND}::test_n04_malformed_bytes_are_refused", f"{SIGNING}::test_n04_garbage_is_refused_as_a_frame",
        f"{BATCHES}::test_n04_a_malformed_batch_is_refused_whole",
    ),
    5: (f"{SIGNING}::test_n05_malleable_signature_is_refused", f"{SIGNING}::test_n05_small_order_and_malformed_keys_are_refused"),
    6: (
        f"{TRUST}::test_n06_one_share_is_not_a_threshold", "tests/keys/test_shares.py::test_n06_one_share_given_twice_is_one",
        f"{APPROVALS}::test_n06_of_three_operators_two_others_must_agree", f"{APPROVALS}::test_n06_one_person_counts_once",
        f"{APPROVALS}::test_n06_nobody_approves_what_they_asked_for", f"{ENDS}::test_n06_the_receiver_counts_the_approvals_itself",
    ),
    7: (
        f"{COMMANDS}::test_n07_a_recorded_question_on_the_bus_is_refused", f"{COMMANDS}::test_n07_a_replayed_command_takes_effect_once",
        f"{COMMANDS}::test_n07_a_replayed_question_is_refused",
        f"{COMMANDS}::test_n07_a_replayed_frame_through_the_other_rings_door",
        f"{DISPATCH}::test_n07_a_daemons_exact_replay_is_refused_in_silence", f"{DISPATCH}::test_n07_after_a_restart_nothing_old_is_taken",
    ),
    8: (f"{REPLAY}::test_n08_numbers_out_of_range_are_refused", f"{DISPATCH}::test_n08_an_old_boot_after_a_new_one_is_refused"),
    9: (WRONG, f"{REPLAY}::test_n09_the_window_of_time_is_exact", f"{REPLAY}::test_n09_each_class_has_its_cap"),
    10: (
        f"{DISPATCH}::test_n10_a_wall_clock_an_hour_off_changes_nothing", f"{TRUST}::test_n10_grants_are_in_force_only_in_their_time",
        f"{CLOCK}::test_n10_a_wall_clock_an_hour_off_is_corrected_by_what_was_told",
        f"{TIMING}::test_n10_a_domain_whose_wall_clock_is_an_hour_off_refuses_and_accepts_as_ever",
        f"{TERM}::test_n10_beyond_its_expiry_a_grant_counts_in_its_own_domain_alone",
        f"{TERMS}::test_n10_an_expired_nodes_frame_is_refused_on_foreign_channels",
        f"{TERMS}::test_n10_ring_0_refuses_an_expired_node_where_its_clients_believe_it",
    ),
    11: (
        f"{CLOCK}::test_n11_time_does_not_go_back_once_learnt", f"{CLOCK}::test_n11_a_restart_goes_on_from_what_was_learnt",
        f"{CLOCK}::test_n11_a_reboot_with_an_earlier_wall_clock_does_not_go_back", f"{TIMING}::test_n11_a_recorded_answer_is_refused",
    ),
    12: (
        f"{CALLER}::test_n12_a_false_answer_is_not_believed", f"{FAN_OUT}::test_n12_a_false_answer_counts_for_nobody",
        f"{FAN_OUT}::test_n12_a_repeated_answer_counts_once", "tests/ring1/test_relaying.py::test_n12_nothing_else_comes_up",
        "tests/bus/test_forwarding.py::test_n12_an_answer_that_the_decider_did_not_sign_is_not_passed_on",
    ),
    13: (
        f"{DECIDING}::test_n13_a_request_id_cannot_be_used_for_another_wish", f"{DECIDING}::test_n13_concurrent_repeats_have_one_effect",
        f"{COMMANDS}::test_n07_a_replayed_command_takes_effect_once",
    ),
    14: (
        f"{TRUST}::test_n14_ring_1_cannot_make_a_peer", f"{COMMANDS}::test_n14_ring1_cannot_command_ring0",
        f"{COMMANDS}::test_n14_an_agent_cannot_command_ring1", f"{COMMANDS}::test_n14_nobody_commands_upwards_on_the_bus",
        f"{ENDS}::test_n14_an_old_or_foreign_order_destroys_nothing",
    ),
    15: (f"{TRUST}::test_n15_a_child_wider_than_its_parent_is_refused",),
    16: (f"{TRUST}::test_n16_segments_are_compared_whole",),
    17: (f"{TRUST}::test_n15_a_child_wider_than_its_parent_is_refused", f"{BUS}::test_n17_a_bad_key_file_allows_nobody"),
    18: (f"{TRUST}::test_n18_a_foreign_middle_is_refused",),
    19: (
        "tests/attacks/test_grants.py::test_n19_a_grant_that_no_journal_shows_is_believed_by_nobody",
        f"{TOLD}::test_n19_a_grant_outside_the_issuers_journal_is_believed_by_nobody",
    ),
    20: (f"{TRUST}::test_n20_a_key_of_another_subject_is_refused",),
    21: (
        f"{TRUST}::test_n21_only_the_parent_introduces", f"{COMMANDS}::test_n14_ring1_cannot_command_ring0",
        f"{COMMANDS}::test_n14_nobody_commands_upwards_on_the_bus",
        f"{TRUST}::test_n14_ring_1_cannot_make_a_peer",
    ),
    22: (
        f"{TRUST}::test_n22_revoking_an_ancestor_takes_the_leaf",
        f"{COMMANDS}::test_n23_a_revoked_key_bites_at_once_in_both_rings",
        f"{TOLD}::test_n22_a_statement_from_above_bites_at_once_and_takes_descendants",
        f"{TERM}::test_n22_autonomy_does_not_outlive_a_revocation",
    ),
    23: (
        f"{COMMANDS}::test_n23_a_revoked_key_bites_at_once_in_both_rings", f"{HTTP}::test_n23_a_revoked_token_ends_its_stream",
        f"{APPROVALS}::test_n23_a_revoked_operators_approval_does_not_count", f"{APPROVALS}::test_n23_a_revoked_asker_gets_nothing",
        f"{ENDS}::test_n23_a_revoked_approver_does_not_count",
    ),
    24: (
        f"{SUCCESSION}::test_n24_a_statement_that_skips_one_is_refused", f"{SUCCESSION}::test_n24_too_few_of_either_root_are_refused",
        f"{SUCCESSION}::test_n24_borrowed_signatures_do_not_count", "tests/ring0/test_roots.py::test_n24_what_may_not_follow_is_refused",
        "tests/ring1/test_beliefs.py::test_n24_an_agent_follows_the_root_and_nothing_else",
        "tests/e2e/test_root_rotation.py::test_n24_live",
    ),
    25: (
        f"{SUCCESSION}::test_n25_an_older_root_after_a_newer_one_is_refused",
        f"{SUCCESSION}::test_n25_the_same_version_with_other_content_is_refused",
        "tests/ring0/test_roots.py::test_n25_no_way_back_and_no_second_way",
        "tests/e2e/test_root_rotation.py::test_n24_n25_the_root_is_replaced_and_no_valid_command_refused",
        f"{BEACON}::test_n25_what_fell_or_forked_is_refused_and_alarmed",
        f"{BEACON}::test_n25_an_older_beacon_after_a_newer_one_is_refused",
        f"{PARENTS}::test_n25_an_older_or_forked_head_is_refused_and_alarmed",
    ),
    26: (
        f"{BEACON}::test_n26_a_set_that_never_existed_together_is_not_followed",
        f"{PARENTS}::test_n26_a_charter_that_the_beacon_did_not_name_is_refused",
    ),
    27: (
        f"{BEACON}::test_n27_standing_by_the_age_of_the_beacon", f"{PARENTS}::test_n27_peers_wait_while_the_beacon_is_frozen",
        "tests/e2e/test_standing.py::test_n27_apps_go_on_while_ring_0_is_silent",
    ),
    28: (
        f"{RVK}::test_n28_only_who_stands_above_revokes", f"{RVK}::test_n28_whoever_has_no_key_for_grants_revokes_nothing",
        f"{RVK}::test_n28_a_key_is_not_made_ones_own_by_granting_it_again",
        f"{TOLD}::test_n28_a_neighbours_or_childs_statement_is_refused",
    ),
    29: (
        f"{BEACON}::test_n29_a_gap_in_the_numbers_stops_everybody_but_the_ring_above",
        f"{PARENTS}::test_n29_a_hidden_revocation_stops_commands_until_it_was_fetched",
    ),
    30: (f"{PARENTS}::test_n30_a_revocation_that_one_of_three_missed_is_enforced_there_once_it_heals",),
    31: (f"{BUS}::test_n31_a_revoked_peer_is_cut_in_both_directions",),
    32: (
        f"{NATS}::test_n32_a_revoked_user_is_cut_and_its_old_token_refused",
        f"{CLUSTER}::test_n32_a_server_that_was_away_learns_of_a_revocation",
        "tests/e2e/test_nats.py::test_n32_a_persons_revoked_key_is_cut_from_both_rings",
    ),
    33: (
        f"{VERIFY}::test_n33_any_changed_byte_of_an_entry_is_found_and_named", f"{VERIFY}::test_n33_a_torn_tail_is_named",
        f"{VERIFY}::test_n33_a_dropped_entry_is_named", f"{VERIFY}::test_n33_swapped_entries_are_named",
        f"{REPAIR}::test_n33_damage_is_put_back", f"{FOLLOWED}::test_n33_a_spoiled_snapshot_is_not_believed",
    ),
    34: (
        f"{VERIFY}::test_n34_a_history_rewritten_by_its_owner_shows_to_a_witness", f"{FOLLOWER}::test_n34_two_signed_histories_are_a_fork",
        f"{FOLLOWED}::test_n34_a_snapshot_of_another_history_is_a_fork",
    ),
    35: (f"{FOLLOWER}::test_n35_rollback_is_seen", f"{OPENING}::test_n35_less_than_a_witness_has_seen_is_refused"),
    36: ("tests/e2e/test_restored.py::test_n36_a_restored_journal_does_not_revive_a_revoked_key",),
    37: (f"{OPENING}::test_n37_a_projection_row_edited_by_hand_decides_nothing",),
    38: (
        f"{OPENING}::test_n38_a_projection_ahead_of_the_journal_is_refused",
        f"{OPENING}::test_n38_a_projection_of_another_journal_is_refused",
    ),
    39: (
        f"{REPLAY}::test_n39_two_live_boots_of_one_identity_fence_the_first",
        f"{TOLD}::test_n39_a_copied_seed_is_fenced_by_the_later_start",
    ),
    40: (
        f"{INVITED}::test_n40_a_token_is_used_once", f"{INVITED}::test_n40_a_second_key_costs_both_their_trust",
        f"{INVITED}::test_n40_out_of_time_a_token_buys_nothing", f"{INVITED}::test_n40_a_token_is_for_one_thing",
        f"{INVITED}::test_n40_a_guess_is_worth_nothing", f"{JOINED}::test_n40_two_who_use_one_token_lose_both_keys",
    ),
    41: (f"{JOINING}::test_n41_a_fake_parent_is_refused", f"{JOINED}::test_n41_whoever_answers_instead_is_found_out"),
    42: (f"{JOINING}::test_n42_a_request_proves_that_its_keys_are_its_own", f"{INVITED}::test_n42_somebody_elses_key_is_refused"),
    43: (
        "tests/supervision/test_hands.py::test_n43_a_recycled_pid_is_not_ours",
        "tests/supervision/test_hands.py::test_n43_a_record_that_lies_harms_nobody",
        *(f"tests/supervision/test_recycled_pid.py::test_n43_{name}" for name in (
            "who_has_the_pid_now_is_not_who_was_checked", "what_is_held_stays_the_one_that_was_checked",
            "a_pid_that_changes_hands_while_it_is_opened_is_refused",
        )),
    ),
    44: (
        f"{JOINING}::test_n44_one_key_for_two_purposes_is_refused", f"{INVITED}::test_n44_no_key_for_two_purposes",
        f"{TRUST}::test_n20_a_key_of_another_subject_is_refused",
    ),
    50: (f"{JAIL}::test_n50_kernel_doors_are_shut", f"{TENANTS}::test_n50_a_neighbour_cannot_be_signalled_or_traced"),
    51: (f"{TENANTS}::test_n51_a_neighbours_files_cannot_be_read", f"{TENANTS}::test_n51_a_neighbours_process_cannot_be_seen"),
    52: (f"{JAIL}::test_n52_no_descriptor_is_inherited",),
    53: (f"{JAIL}::test_n53_terminal_and_setuid", f"{JAIL}::test_n53_setuid_file_of_a_release_gives_nothing"),
    54: (f"{JAIL}::test_n54_kernel_settings_and_groups",),
    55: (f"{BUILD}::test_n55_a_build_reaches_nothing_of_ours", f"{BUILD}::test_n55_an_app_reaches_nothing_but_itself"),
    57: (f"{JAIL}::test_n57_new_instance_finds_nothing_old", f"{TENANTS}::test_n57_a_uid_is_not_given_out_again"),
    58: (f"{JAIL}::test_n58_abstract_sockets_and_shared_memory", f"{BUILD}::test_n58_an_app_finds_no_socket_of_ours"),
    59: (f"{GROUND}::test_n59_bad_names_are_refused",),
    60: (f"{ARCHIVE}::test_n60_procfile_cannot_inject", f"{ROUTING}::test_n60_host_and_server_names_cannot_inject"),
    63: (f"{ARCHIVE}::test_n63_hostile_archive_is_refused_and_writes_nothing", f"{ARCHIVE}::test_n63_compressed_bomb_is_not_opened"),
    66: (f"{COMMANDS}::test_n66_a_tenants_token_cannot_ask_for_more",),
    67: (f"{ROUTING}::test_n67_ambiguous_request_does_not_reach_an_app", f"{ROUTING}::test_n67_both_lengths_are_one_request"),
    68: (f"{ROUTING}::test_n68_forwarding_headers_are_ours",),
    72: (f"{ROUTING}::test_n72_host_is_matched_without_port_case_and_dot", f"{HTTP}::test_n72_other_hosts_are_not_served"),
    75: (
        f"{SECRETS}::test_n75_no_secret_in_what_is_kept", f"{SECRETS}::test_n75_no_secret_in_logs",
        f"{SECRETS}::test_n75_a_value_that_was_not_sealed_gets_nowhere",
        "tests/ring1/test_settings_command.py::test_n75_what_is_malformed_is_not_repeated",
    ),
    76: (f"{BUS}::test_n76_strangers_do_not_get_in", f"{COMMANDS}::test_n76_an_unknown_curve_key_cannot_connect"),
    77: (
        f"{BUS}::test_n77_a_hub_without_its_check_refuses_to_serve", f"{BUS}::test_n77_a_check_that_says_nothing_lets_nobody_in",
        f"{BUS}::test_n77_a_storm_of_strangers_does_not_starve_the_enrolled",
    ),
    78: (
        f"{NATS}::test_n78_a_rogue_server_gets_no_signature_over_a_message", f"{NATS}::test_n78_what_a_rogue_server_gets_is_of_no_use",
        f"{NATS_KEYS}::test_n78_a_text_that_could_mean_something_is_not_signed", f"{NATS_KEYS}::test_n78_an_answer_is_no_signature_of_ours",
    ),
    79: (
        f"{BUS}::test_n79_a_hub_below_the_floor_refuses_to_serve", f"{NATS}::test_n79_a_server_below_the_floor_is_refused_by_name",
        f"{NATS}::test_n79_what_is_found_is_asked_for_its_version",
    ),
    80: (f"{TIDY}::test_n80_product_modules_keep",),
}  # fmt: skip

# Number -> what is not built yet, so that there is nothing to attack.
NOT_BUILT: Final[dict[int, str]] = {
    45: "federation",
    46: "federation",
    47: "federation",
    48: "federation",
    49: "federation",
    56: "guests with links of their own",
    61: "git push",
    62: "git push",
    64: "provenance of releases",
    65: "an API that writes into a release",
    69: "a test with Connection-listed headers",
    70: "listeners with the PROXY protocol",
    71: "a test with refused upgrades",
    73: "HTTP/2",
    74: "a test with a hostile backend",
}

# What rides on the bus as a wrong frame, by threat: the test of the stages alone, and the one over ZeroMQ and over NATS in whole clouds.
# What is not here is played before or behind any transport: in the making of a grant, in a journal, in a file, at a door, in the kernel.
STAGES: Final = f"{DISPATCH}::test_each_stage_refuses_with_its_own_code"
CARRIED: Final[dict[int, tuple[str, str]]] = {
    1: (f"{DISPATCH}::test_n01_every_bit_counts", WRONG),
    2: (STAGES, f"{COMMANDS}::test_n02_another_subject_than_signed"),
    3: (STAGES, WRONG),
    7: (
        f"{DISPATCH}::test_n07_a_daemons_exact_replay_is_refused_in_silence",
        f"{COMMANDS}::test_n07_a_recorded_question_on_the_bus_is_refused",
    ),
    9: (STAGES, WRONG),
    13: (
        f"{DISPATCH}::test_the_same_request_again_gives_the_stored_answer",
        f"{COMMANDS}::test_n07_a_replayed_command_takes_effect_once",
    ),
    14: (STAGES, f"{COMMANDS}::test_n14_nobody_commands_upwards_on_the_bus"),
    21: (STAGES, f"{COMMANDS}::test_n14_nobody_commands_upwards_on_the_bus"),
    22: (STAGES, f"{COMMANDS}::test_n23_a_revoked_key_bites_at_once_in_both_rings"),
    23: (STAGES, f"{COMMANDS}::test_n23_a_revoked_key_bites_at_once_in_both_rings"),
}
