"""The rows of docs/faults.md, what goes wrong in a lab: each is shown by tests, which are named here."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

SHOWN_BY = {
    "datagrams are lost, doubled, reordered": [
        "tests/test_live_faults.py::test_each_handler_runs_once_whatever_the_network_does",
        "tests/chaos/test_relay_network.py::test_loss_duplication_reordering_and_delay",
        "tests/chaos/test_kernel_network.py::test_loss_and_duplication",
    ],
    "the network is cut for a while": [
        "tests/test_live_faults.py::test_partition_and_healing",
        "tests/chaos/test_relay_network.py::test_partitions_in_the_middle_of_a_session",
        "tests/chaos/test_kernel_network.py::test_cable_that_is_pulled_and_plugged",
    ],
    "the task's program is killed, or its PC crashes": [
        "tests/test_ownership.py::test_rigs_interrupt_when_their_owner_is_killed_and_say_why",
        "tests/test_cli.py::test_serve_interrupts_after_its_lease",
        "tests/chaos/test_kills.py::test_coordinator_killed_in_the_middle_of_each_message",
    ],
    "the task's program closes, or ends, without EXPEND": [
        "tests/test_drop_in.py::test_what_was_started_and_not_ended_is_interrupted_when_its_program_closes",
        "tests/test_drop_in.py::test_what_was_started_and_not_ended_is_interrupted_at_the_end_of_the_program",
        "tests/test_drop_in.py::test_an_end_that_nobody_waits_for_is_sent_until_it_is_answered_before_the_program_closes",
        "tests/test_drop_in.py::test_a_rig_out_of_reach_at_the_end",
        "tests/test_experiment.py::test_a_body_that_closes_the_connection_has_the_rigs_interrupted_and_is_not_told_otherwise",
        "tests/test_experiment.py::test_a_body_that_closes_the_connection_is_told_once_of_a_rig_that_may_go_on",
        "tests/test_coordinator.py::test_a_body_that_closes_the_coordinator_has_the_rigs_interrupted_and_is_not_told_otherwise",
    ],
    "EXPEND fails on a rig, which goes on, and its program closes": [
        "tests/test_drop_in.py::test_a_rig_that_goes_on_after_its_end_is_interrupted_when_its_program_closes",
        "tests/test_drop_in.py::test_at_ctrl_c_what_records_is_interrupted_though_another_rig_still_begins",
    ],
    "a rig answers EXPEND, and says that it is still RUNNING": [
        "tests/journal/test_recording.py::test_a_rig_that_says_it_still_records_makes_no_complete_session",
    ],
    "an `Auxiliaries` that nothing refers to any more, such as that of a function that has returned": [
        "tests/test_unreferenced.py::test_its_thread_and_sockets_are_gone_at_once",
        "tests/test_unreferenced.py::test_what_it_has_started_is_interrupted",
        "tests/test_unreferenced.py::test_an_experiment_that_goes_on_is_interrupted",
        "tests/test_unreferenced.py::test_a_program_that_ends_right_after_waits_for_the_interrupt",
    ],
    "the task's program has crashed, and you look at its rigs before they interrupt": [
        "tests/test_ownership.py::test_terminals_show_how_long_the_one_in_charge_is_silent_and_when_the_rig_interrupts",
        "tests/test_watch.py::test_a_silent_owner_and_the_end_of_the_lease_are_shown",
        "tests/core/test_health.py::test_an_answer_to_a_probe_tells_how_long_the_owner_is_silent_and_when_the_rig_interrupts",
    ],
    "the task is started again in the middle of an experiment": [
        "tests/test_ownership.py::test_an_experiment_is_taken_over_by_its_reference",
        "tests/test_live_faults.py::test_coordinator_that_is_killed_leaves_the_rig_to_others",
    ],
    "another program commands the same rig": [
        "tests/test_ownership.py::test_another_coordinator_is_refused_by_name",
        "tests/test_ownership.py::test_a_refusal_names_the_program_that_is_in_charge",
        "tests/test_ownership.py::test_a_second_connection_of_this_program_is_told_so",
    ],
    "a rig's program is restarted while it has a message": [
        "tests/test_links.py::test_a_restart_that_nothing_else_shows_settles_what_is_outstanding",
        "tests/chaos/test_kills.py::test_rig_killed_in_the_middle_of_each_message",
    ],
    "a rig's program, or an agent, is restarted in the middle of an experiment": [
        "tests/agent/test_serve.py::test_one_that_was_killed_and_started_again_does_not_say_that_it_has_ended_the_recording",
        "tests/core/test_responder.py::test_an_end_of_what_this_program_has_never_begun_is_no_success",
        "tests/test_experiment.py::test_one_that_is_started_anew_is_seen",
    ],
    "a rig's program is closed, is stopped by Ctrl-C, or just ends in the middle of an experiment; "
    "`rig.run()` and `rigsync serve` also by SIGTERM or SIGHUP": [
        "tests/test_rig_closing.py::test_close_interrupts_what_is_under_way_and_tells_why",
        "tests/test_rig_closing.py::test_a_signal_interrupts_what_is_under_way_and_the_exit_status_is_0",
        "tests/test_rig_closing.py::test_a_program_that_ends_without_close_interrupts_what_is_under_way",
        "tests/test_rig_closing.py::test_a_handler_that_does_not_stop_is_given_up_and_told_of",
        "tests/test_rig_closing.py::test_ctrl_c_again_and_again_cuts_no_telling_short",
        "tests/test_health.py::test_a_rig_that_has_told_that_it_is_stopped_and_gone_does_not_go_on",
        "tests/test_readme.py::test_a_program_of_ones_own_ends_the_experiment_at_sigterm_and_sighup",
    ],
    "a rig's PC comes back with another address": [
        "tests/test_links.py::test_a_name_that_stands_for_another_address_after_a_reboot",
    ],
    "the task's PC gets another address, or its network is up only after the task": [
        "tests/chaos/test_kernel_network.py::test_task_whose_computer_gets_another_address",
        "tests/chaos/test_kernel_network.py::test_network_that_is_there_only_after_the_task",
        "tests/core/test_responder.py::test_a_coordinator_whose_computer_has_another_address_goes_on_after_5_beats_of_silence",
    ],
    "a rig's PC starts late": [
        "tests/test_links.py::test_waiting_for_rigs_ends_when_all_answer",
        "tests/test_links.py::test_rigs_that_do_not_appear_are_named_with_what_is_known",
    ],
    "the clocks of the PCs differ, or are set while a session runs": [
        "tests/test_schedule.py::test_rigs_whose_clocks_are_minutes_apart_begin_together",
        "tests/test_links.py::test_a_clock_that_is_90_s_off_is_measured_within_its_bound",
        "tests/chaos/test_clocks.py::test_clocks_minutes_apart",
        "tests/chaos/test_clocks.py::test_clocks_that_are_stepped_in_the_middle_of_a_session",
    ],
    "a message for an instant comes after it": [
        "tests/test_schedule.py::test_what_comes_after_its_instant_is_done_at_once_and_the_result_says_when",
    ],
    "END, INTERRUPT or the end of the program before the instant": [
        "tests/test_schedule.py::test_what_still_waits_is_called_off",
        "tests/test_schedule.py::test_closing_calls_off_what_still_waits",
    ],
    "a rig's program is not running": [
        "tests/test_auxiliaries.py::test_rig_whose_port_is_closed",
    ],
    "a rig's PC is off, unplugged or behind a firewall": [
        "tests/test_auxiliaries.py::test_silent_rig_becomes_lost_and_costs_little_then",
        "tests/test_auxiliaries.py::test_rig_that_never_says_anything",
    ],
    "one rig is down, or is lost while the task runs": [
        "tests/test_drop_in.py::test_a_rig_killed_before_start",
        "tests/test_drop_in.py::test_a_rig_killed_while_it_records",
        "tests/test_drop_in.py::test_a_rig_that_is_frozen",
        "tests/test_auxiliaries.py::test_rig_killed_in_the_middle",
        "tests/test_auxiliaries.py::test_live_rigs_have_the_message_at_once_however_long_another_takes",
    ],
    "a rig is in trouble, and `rigsync watch` has more rigs than rows": [
        "tests/test_watch.py::test_more_rigs_than_lines_and_a_terminal_that_changes_its_size",
        "tests/test_watch.py::test_rigs_in_trouble_come_first",
        "tests/test_watch.py::test_of_an_error_of_several_lines_the_last_one_is_first",
    ],
    "a rig is lost, and you look how far it was": [
        "tests/test_watch.py::test_progress_of_a_lost_rig_is_marked_as_last_heard",
        "tests/test_health.py::test_all_that_a_lost_rig_has_said_is_marked_as_last_heard",
    ],
    "a handler raises": [
        "tests/test_rig.py::test_exception_comes_back_with_type_text_and_traceback",
    ],
    "an answer does not fit through the network: a smaller MTU on the way": [
        "tests/test_live_faults.py::test_an_answer_too_large_for_the_way_back",
        "tests/core/test_peer.py::test_an_answer_that_does_not_arrive_is_told_as_such_and_asked_for_without_patience",
    ],
    "a handler takes longer than the timeout": [
        "tests/test_auxiliaries.py::test_time_out_is_a_timeout_error",
        "tests/core/test_iblutil_rigs.py::test_an_echo_is_no_sign_of_work",
    ],
    "a message that makes no sense now, such as START without INIT": [
        "tests/test_rig.py::test_refusals_come_back_as_state_errors",
    ],
    "INTERRUPT while a handler runs": [
        "tests/test_rig.py::test_interrupt_runs_while_another_handler_is_stuck",
    ],
    "a TCP connection is cut, or carries junk": [
        "tests/test_live_tcp.py::test_each_handler_runs_once_however_connections_are_cut",
        "tests/test_transports_tcp.py::test_junk_ends_the_stream_it_came_on_with_a_reason_and_no_other",
    ],
    "an argument cannot be sent": [
        "tests/test_auxiliaries.py::test_what_cannot_be_sent_fails_at_the_call",
        "tests/test_auxiliaries.py::test_too_large_fails_at_the_call_and_says_how_large",
    ],
    "an iblutil rig missed a message, or has gone deaf": [
        "tests/test_interop.py::test_iblutil_rig_that_goes_deaf",
    ],
    "an iblutil rig awaits its messages one by one": [
        "tests/test_drop_in.py::test_experiments_with_rigs_that_await_each_message",
        "tests/chaos/test_awaiting_rigs.py::test_a_hundred_experiments_with_rigs_that_await_each_message",
    ],
    "an iblutil rig answers END, INTERRUPT or CLEANUP by another of these": [
        "tests/core/test_iblutil_rigs.py::test_any_answer_that_ends_a_recording_is_taken_for_what_it_is",
        "tests/test_drop_in.py::test_an_experiment_leaves_a_rig_that_answers_cleanup_by_another_event",
    ],
    "a signal handler pushes, looks something up or closes, wherever it interrupts the main thread": [
        "tests/test_signals_while_waiting.py::test_a_handler_that_interrupts_a_wait_anywhere_is_answered",
        "tests/test_signals_while_waiting.py::test_a_handler_that_interrupts_a_step_of_what_threads_share_is_answered",
        "tests/test_signals_while_waiting.py::test_handlers_on_a_timer_are_answered",
        "tests/test_auxiliaries.py::test_close_while_many_wait",
        "tests/test_auxiliaries.py::test_a_request_that_close_ends_raises_with_the_answers_that_there_are",
    ],
    "a callback of your own raises": [
        "tests/test_auxiliaries.py::test_callback_that_raises_is_logged_by_name_and_harms_nobody",
    ],
    "Ctrl-C comes while a callback of your own runs on the main thread's event loop": [
        "tests/test_hub.py::test_ctrl_c_while_a_function_of_the_program_runs_ends_the_program_and_no_event_is_lost",
    ],
    "your program itself stands still: stopped, asleep with its PC, in a debugger": [
        "tests/test_links.py::test_a_program_that_stands_still_itself_does_not_take_its_rigs_for_lost",
        "tests/core/test_peer.py::test_an_answer_that_has_come_while_this_program_stood_still_counts",
    ],
    "a callback of your own blocks": [
        "tests/test_auxiliaries.py::test_stuck_loop_is_told_from_a_silent_rig",
        "tests/test_hub.py::test_a_thread_that_is_stuck_is_told_with_the_name_of_the_subscriber_that_blocks_it",
        "tests/test_hub.py::test_one_that_blocks_the_loop_is_named_with_how_long",
    ],
    "a handler needs more than its message brings; `@rig.on` without brackets; a file in place of rigs": [
        "tests/test_mistakes.py::test_a_handler_that_needs_more_than_the_message_brings",
        "tests/test_mistakes.py::test_on_without_brackets_says_what_to_write",
        "tests/test_mistakes.py::test_a_file_in_place_of_rigs_says_what_to_write",
    ],
    "a source, timer, filter or boundary of a hub fails or cannot be, an event is unknown": [
        "tests/test_hub.py::test_a_source_that_raises_is_named_and_the_hub_goes_on",
        "tests/test_hub.py::test_the_make_of_a_timer_that_raises_is_reported_and_it_goes_on",
        "tests/hub/test_timers.py::test_the_error_names_the_timer_and_the_interval",
        "tests/hub/test_hub.py::test_a_filter_that_raises_is_reported_and_consumes_nothing",
        "tests/hub/test_sources.py::test_hubs_that_would_close_a_circle_are_not_joined",
        "tests/hub/test_events.py::test_unknown_kinds_are_errors_with_close_matches",
    ],
    "the task fails in `aux.experiment`, is stopped by Ctrl-C, SIGTERM or a terminal that is closed, or just ends": [
        "tests/test_experiment.py::test_whatever_leaves_the_body_interrupts_and_tells_why",
        "tests/test_experiment.py::test_an_exception_that_cannot_be_shown_interrupts_too",
        "tests/test_experiment.py::test_a_huge_traceback_is_cut_so_that_the_interrupt_can_be_sent",
        "tests/test_experiment.py::test_a_signal_interrupts",
        "tests/test_experiment.py::test_the_end_of_the_interpreter_interrupts",
    ],
    "a task takes over an experiment in which something was wrong before": [
        "tests/test_health.py::test_a_task_that_takes_over_has_what_is_wrong",
        "tests/test_health.py::test_a_new_experiment_begins_in_good_health_whatever_was_before",
    ],
    "one rig cannot initialise or start, or is killed meanwhile": [
        "tests/test_experiment.py::test_one_that_still_prepares_is_called_off_as_soon_as_another_has_failed",
        "tests/test_experiment.py::test_one_that_still_prepares_is_called_off_as_soon_as_another_is_killed",
        "tests/agent/test_agent.py::test_what_one_still_prepares_is_ended_as_soon_as_another_refuses",
        "tests/test_experiment.py::test_one_of_four_refuses_init",
        "tests/test_experiment.py::test_one_that_cannot_start_is_cleaned_up_with_the_others",
    ],
    "a rig takes its time": [
        "tests/test_experiment.py::test_whom_it_waits_for_is_told_while_it_waits",
        "tests/test_cli_run.py::test_whom_it_waits_for_and_stops_is_told",
    ],
    "a rig stops, restarts or is lost while it records": [
        "tests/test_experiment.py::test_a_rig_that_stops_by_itself_is_seen",
        "tests/test_experiment.py::test_a_rig_that_has_stopped_by_itself_unseen_fails_the_end",
        "tests/test_experiment.py::test_one_that_is_started_anew_is_seen",
        "tests/test_experiment.py::test_one_that_is_lost_and_back_is_ready_again",
        "tests/test_experiment.py::test_what_nobody_has_checked_is_told_at_the_end",
    ],
    "rigs fail, several at once, or with an error of many lines": [
        "tests/test_told_once.py::test_what_is_raised_is_told_by_that_alone",
        "tests/test_told_once.py::test_what_is_returned_is_told_by_the_log",
        "tests/test_told_once.py::test_run_tells_it_once",
        "tests/test_told_once.py::test_a_rig_that_is_closed_is_told_as_news_and_by_the_error",
        "tests/test_told_once.py::test_a_rig_that_is_lost_is_told_as_lost_and_as_what_may_go_on",
        "tests/test_told_once.py::test_ctrl_c_does_not_hide_a_failure_that_would_have_been_raised",
    ],
    "an experiment is made and never begun: `aux.experiment(ref)` without `with`": [
        "tests/test_told_once.py::test_an_experiment_that_is_never_begun_is_an_error_on_stderr",
        "tests/test_told_once.py::test_an_experiment_that_is_never_begun_is_told_once_when_its_coordinator_is_closed",
    ],
    "a rig is lost when the experiment ends, and back later, while the program goes on": [
        "tests/test_experiment.py::test_one_that_is_out_of_reach_when_it_is_over_is_stopped_when_it_answers_again",
    ],
    "`rigsync start`, and a rig fails, records already, or Ctrl-C comes": [
        "tests/test_cli_everyday.py::test_a_rig_that_fails_at_the_start_takes_the_others_back",
        "tests/test_cli_everyday.py::test_a_rig_that_records_already_is_left_alone",
        "tests/test_cli_everyday.py::test_ctrl_c_in_the_middle_takes_all_back",
        "tests/test_cli_everyday.py::test_an_instant_that_ctrl_c_comes_before",
    ],
    "`rigsync start`, `stop` or `run`, and a rig is out of reach": [
        "tests/test_cli_everyday.py::test_a_rig_out_of_reach_is_said_to_be_left_to_its_lease",
    ],
    "`rigsync stop`, and another program is in charge of a rig, or nothing goes on there": [
        "tests/test_cli_everyday.py::test_another_program_s_session_goes_on",
        "tests/test_cli_everyday.py::test_ctrl_c_leaves_what_another_program_is_in_charge_of",
        "tests/test_cli_everyday.py::test_stop_where_nothing_goes_on",
    ],
    "`rigsync stop`, and a rig that had begun the session does not record any more: its program was started anew": [
        "tests/test_cli_everyday.py::test_a_rig_whose_program_was_started_anew_has_not_ended_well",
    ],
    "`rigsync stop`, and a rig does not end, has ended by itself, or takes long": [
        "tests/test_cli_everyday.py::test_a_rig_that_does_not_end_is_interrupted_and_the_others_have_ended",
        "tests/test_cli_everyday.py::test_a_rig_that_has_ended_by_itself_is_told_and_cleaned_up",
        "tests/test_cli_everyday.py::test_ctrl_c_turns_a_stop_that_takes_long_into_an_interrupt",
    ],
    "rigs send descriptions that contradict each other, or are none": [
        "tests/journal/test_metadata.py::test_what_contradicts_is_named_and_the_first_counts",
        "tests/journal/test_metadata.py::test_hostile_descriptions_stay_data",
        "tests/journal/test_metadata.py::test_the_command",
    ],
    "the folder for a session's metadata has another session's, or somebody else's description": [
        "tests/journal/test_metadata.py::test_it_is_written_again_and_over_no_other_session",
        "tests/journal/test_metadata.py::test_a_file_of_somebody_else_stays",
    ],
    "the subject of a session has a name that leads to another folder": [
        "tests/agent/test_session_folder.py::test_a_subject_that_leads_elsewhere_is_refused",
        "tests/journal/test_metadata.py::test_no_reference_leads_elsewhere",
    ],
    "a rig fails in a rehearsal: it lacks what it requires, does not start, does not grow, dies, or ends badly": [
        "tests/agent/test_rehearsal.py::test_what_the_file_requires_in_earnest_is_checked",
        "tests/agent/test_rehearsal.py::test_a_recorder_that_does_not_start_is_named_and_leaves_nothing",
        "tests/agent/test_rehearsal.py::test_a_recorder_whose_file_does_not_grow_has_failed",
        "tests/agent/test_rehearsal.py::test_a_recorder_that_dies_is_told_with_its_reason",
        "tests/test_rehearsal.py::test_one_that_fails_keeps_nobody_from_the_end",
        "tests/test_rehearsal.py::test_the_command_fails_where_a_rig_has",
    ],
    "the disk of a rig has no room for the session to come": [
        "tests/agent/test_rehearsal.py::test_a_disk_that_is_too_small_for_the_session_fails",
        "tests/test_rehearsal.py::test_what_a_rig_tells_is_proof_or_named",
    ],
    "a rig cannot rehearse: one of iblutil, an agent without `rehearsal`, a program without `@rig.rehearsal`": [
        "tests/test_rehearsal.py::test_rigs_that_cannot_are_left_out_and_begin_nothing",
        "tests/core/test_rehearsing.py::test_one_that_cannot_refuses_and_says_what_to_write",
    ],
    "a rehearsal where somebody's experiment goes on, or an experiment where a rehearsal does": [
        "tests/test_rehearsal.py::test_somebody_s_experiment_goes_on",
        "tests/core/test_rehearsing.py::test_it_takes_nobody_s_place",
        "tests/core/test_rehearsing.py::test_an_experiment_is_never_told_that_a_rehearsal_is_it",
    ],
    "a rehearsal is stopped by Ctrl-C, or the program with it is killed": [
        "tests/test_rehearsal.py::test_ctrl_c_interrupts_and_removes",
        "tests/test_rehearsal.py::test_ctrl_c_leaves_somebody_s_experiment_alone",
        "tests/test_rehearsal.py::test_ctrl_c_leaves_an_experiment_alone_that_began_meanwhile",
        "tests/test_rehearsal.py::test_where_nobody_cleans_up_the_folder_goes_with_the_interrupt",
        "tests/agent/test_rehearsal.py::test_an_interrupt_of_its_own_such_as_after_the_lease_leaves_nothing",
    ],
    "a file is in the way of a rehearsal, or lies beside it": [
        "tests/agent/test_rehearsal.py::test_a_file_in_the_way_is_neither_overwritten_nor_removed",
        "tests/agent/test_rehearsal.py::test_what_was_there_before_stays",
    ],
    "an agent's rehearsal would record where it records in earnest, or above: by a link, a relative path, another name "
    "of the folder": [
        "tests/agent/test_rehearsal.py::test_where_it_would_record_among_real_files_it_is_refused",
        "tests/agent/test_rehearsal.py::test_what_a_link_in_scratch_leads_to_stays",
        "tests/agent/test_rehearsal.py::test_a_relative_path_may_be_the_same",
    ],
    "`rehearsal` in an agent's file names an unknown variable, or leaves what is recorded where it lies in earnest": [
        "tests/agent/test_rehearsal.py::test_what_cannot_be_meant_is_a_mistake",
    ],
    "something is wrong with a rig, or it has stopped by itself, before you look": [
        "tests/test_health.py::test_who_comes_late_sees_what_is_wrong_and_since_when",
        "tests/test_health.py::test_who_comes_late_sees_why_the_rig_has_stopped",
        "tests/test_health.py::test_a_recording_that_has_ended_badly_is_seen_by_all_until_it_is_settled",
        "tests/test_health.py::test_terminals_show_it_to_who_comes_late",
        "tests/test_doctor.py::test_a_rig_that_is_not_well",
    ],
    "a recorder of an agent dies, or ends too soon": [
        "tests/agent/test_agent.py::test_one_that_dies_while_it_records_is_told_at_once",
        "tests/agent/test_agent.py::test_one_that_ends_well_before_its_time_is_told_too",
        "tests/test_examples.py::test_a_recorder_that_dies_ends_the_task",
    ],
    "a recorder freezes: its file stops growing": [
        "tests/agent/test_agent.py::test_a_recorder_that_freezes_is_told_within_the_time_and_its_recovery_too",
    ],
    "a recorder has written nothing of what `verify` names, or an empty file": [
        "tests/agent/test_recording.py::test_a_session_that_has_recorded_nothing_is_no_success",
        "tests/agent/test_recording.py::test_rigsync_run_has_status_125_where_nothing_was_recorded",
    ],
    "a recorder has written a file that nothing can read, such as an mp4 without its index": [
        "tests/agent/test_validation.py::test_a_video_that_is_cut_off_in_the_middle_fails_the_experiment",
        "tests/agent/test_validation.py::test_all_files_are_looked_at_and_equal_reasons_are_told_once",
    ],
    "a recorder that was told to stop goes on writing": [
        "tests/agent/test_recording.py::test_what_is_told_to_stop_and_goes_on_is_no_success",
    ],
    "a file is there already that would be recorded": [
        "tests/agent/test_recording.py::test_a_recording_is_not_recorded_over",
        "tests/agent/test_recording.py::test_what_is_known_at_expstart_only_is_refused_there_and_takes_have_files_of_their_own",
        "tests/agent/test_recording.py::test_existing_keep_adds_to_it",
        "tests/agent/test_recording.py::test_existing_overwrite_records_over_it",
    ],
    "a recording damages a file from before": [
        "tests/agent/test_recording.py::test_what_was_there_before_and_is_lost_is_told_at_once_and_at_the_end",
        "tests/agent/test_recording.py::test_a_file_of_ready_alone_that_is_to_be_kept_and_is_lost_fails_the_end",
        "tests/agent/test_recording.py::test_a_file_from_before_that_is_recorded_over_fails_the_end_though_it_is_larger_again",
    ],
    "a file is cut or replaced while it is recorded": [
        "tests/agent/test_recording.py::test_a_file_that_loses_what_is_recorded_is_told_at_once_and_fails_the_end",
        "tests/agent/test_recording.py::test_space_that_is_given_back_at_the_end_is_no_loss",
        "tests/agent/test_recording.py::test_a_segment_may_be_cut_when_it_is_finished_and_not_while_it_grows",
    ],
    "two rigs of one PC would record to one file": [
        "tests/agent/test_recording.py::test_a_path_is_in_use_by_one_recording_at_a_time",
        "tests/agent/test_recording.py::test_two_programs_do_not_record_to_one_file_and_one_that_is_killed_holds_nothing",
        "tests/agent/test_recording.py::test_a_path_and_a_pattern_that_matches_it_are_not_recorded_at_once",
        "tests/agent/test_recording.py::test_two_patterns_that_match_a_file_that_is_there_are_not_recorded_at_once",
        "tests/agent/test_recording.py::test_a_file_that_appears_and_that_two_recordings_match_is_told_by_both",
    ],
    "a recorder begins a new file every now and then": [
        "tests/agent/test_recording.py::test_a_recorder_that_goes_on_in_new_files_is_healthy",
        "tests/agent/test_recording.py::test_a_finished_segment_that_vanishes_is_told_and_fails_the_end",
    ],
    "the disk fills while an agent records": [
        "tests/agent/test_recording.py::test_a_disk_that_fills_is_told_before_it_is_full_and_as_the_cause",
    ],
    "a recorder ignores interrupt and terminate, crashes at the stop, or ends with an error": [
        "tests/agent/test_agent.py::test_one_that_ignores_everything_is_killed_and_the_answer_says_so",
        "tests/agent/test_agent.py::test_a_bad_end_is_a_failure_with_the_last_lines",
        "tests/agent/test_agent.py::test_a_bad_end_is_a_failure_of_the_experiment_and_all_is_cleaned_up",
        "tests/test_cli_run.py::test_a_recorder_that_ends_badly_spoils_the_end",
    ],
    "an agent is killed": [
        "tests/agent/test_serve.py::test_killed_while_ffmpeg_records_it_leaves_nothing_and_the_file_is_playable",
        "tests/test_examples.py::test_agents_that_are_killed_leave_no_recorder",
    ],
    "an agent is killed together with its keepers": [
        "tests/agent/test_serve.py::test_killed_with_its_keepers_it_leaves_nothing",
        "tests/agent/test_process.py::test_an_agent_and_its_keeper_killed_together_leave_nothing",
    ],
    "an agent is killed while a keeper of its is stopped (SIGSTOP)": [
        "tests/agent/test_process.py::test_a_keeper_that_is_stopped_while_its_agent_is_killed_is_woken",
        "tests/agent/test_process.py::test_the_watcher_takes_the_place_of_a_keeper_that_cannot_go_on",
        "tests/agent/test_serve.py::test_killed_with_its_watcher_while_its_keeper_is_stopped_the_next_start_ends_what_is_left",
    ],
    "an agent is killed with all that cleans up after it": [
        "tests/agent/test_agent.py::test_what_an_earlier_agent_has_left_and_cannot_be_ended_refuses_the_experiment",
        "tests/agent/test_serve.py::test_killed_with_all_that_cleans_up_after_it_the_next_start_does",
        "tests/agent/test_orphans.py::test_what_belongs_to_somebody_is_left",
    ],
    "the keeper of a recorder is killed": [
        "tests/agent/test_serve.py::test_a_keeper_that_is_killed_is_a_recording_that_has_failed",
        "tests/agent/test_serve.py::test_an_end_after_its_keeper_was_killed_waits_for_what_is_left",
        "tests/agent/test_process.py::test_a_keeper_killed_alone_leaves_nothing_and_no_end_is_told_before",
    ],
    "programs are ended by name: `pkill -f rigsync`, `pkill -f ffmpeg`": [
        "tests/agent/test_process.py::test_whoever_ends_programs_by_name_does_not_hit_the_keeper",
    ],
    "`rigsync run` is killed, or its keeper, or both": [
        "tests/test_cli_run.py::test_killed_it_leaves_nothing_and_the_command_can_finish",
        "tests/test_cli_run.py::test_a_keeper_that_is_killed_leaves_nothing",
    ],
    "the next session begins while an agent still copies the last one": [
        "tests/agent/test_finish.py::test_it_waits_while_the_next_session_records_and_is_begun_anew_then",
        "tests/agent/test_finish.py::test_the_next_session_records_while_it_goes_on",
        "tests/agent/test_finish.py::test_it_gives_way_to_what_records",
    ],
    "a copy fails: the server is away, a disk is full, a password has changed": [
        "tests/agent/test_finish.py::test_what_goes_on_failing_is_told_before_it_has_failed_for_good",
        "tests/agent/test_finish.py::test_what_fails_is_tried_again_and_holds_up_nothing",
        "tests/agent/test_finish.py::test_what_fails_for_good_is_told_with_the_remedy",
        "tests/test_cli_transfers.py::test_what_has_failed_is_tried_again_with_the_commands_of_the_file_as_it_is_now",
    ],
    "a copy fails for good while the next session records": [
        "tests/agent/test_finish.py::test_a_failure_is_none_of_the_session_that_goes_on",
    ],
    "an agent is ended, or killed, while it copies, or its computer is": [
        "tests/agent/test_finish.py::test_an_agent_that_ends_leaves_it_to_the_next",
        "tests/agent/test_finish.py::test_an_agent_that_is_killed_leaves_it_to_the_next_which_does_it_once",
    ],
    "an agent is killed while it records": [
        "tests/agent/test_finish.py::test_an_agent_that_is_killed_while_it_records_has_the_next_one_copy_what_there_is",
    ],
    "two agents serve one file, or one name in one folder": [
        "tests/agent/test_finish.py::test_of_two_agents_of_one_name_one_does_it",
        "tests/agent/test_finish.py::test_the_session_of_another_living_agent_is_left_alone",
    ],
    "the queue of what is to be done cannot be written: a full or read-only disk": [
        "tests/agent/test_finish.py::test_a_queue_that_cannot_be_written_is_told_and_it_is_done_all_the_same",
        "tests/agent/test_finish.py::test_a_queue_that_stays_away_does_not_keep_it_from_being_done",
        "tests/agent/test_finish.py::test_one_that_cannot_be_put_in_its_place_leaves_what_was_there",
    ],
    "the queue holds damaged files, or others'": [
        "tests/agent/test_finish.py::test_junk_in_the_queue_is_named_and_left_alone",
        "tests/test_cli_transfers.py::test_junk_is_named_and_the_rest_is_shown",
    ],
    "a command of `finish` hangs": [
        "tests/agent/test_finish.py::test_a_command_that_takes_too_long_has_failed",
    ],
    "a command of `finish` needs a value that no message had": [
        "tests/agent/test_finish.py::test_a_value_that_no_message_had_is_told",
    ],
    "a drive of an agent hangs": [
        "tests/agent/test_agent.py::test_a_drive_that_hangs_refuses_the_experiment_by_name",
        "tests/agent/test_agent.py::test_drives_that_hang_hold_up_no_interrupt",
        "tests/agent/test_agent.py::test_a_recording_on_a_drive_that_hangs_is_told_and_can_be_ended",
    ],
    "too little disk, a program or folder missing, a folder read-only": [
        "tests/agent/test_agent.py::test_what_is_required_refuses_the_experiment_on_every_screen",
        "tests/agent/test_agent.py::test_a_folder_that_cannot_be_written_to_refuses_the_experiment",
    ],
    "too little disk, a program or folder missing, before the session, or while another one runs": [
        "tests/test_check_live.py::test_each_rig_has_its_line",
        "tests/test_check_live.py::test_it_may_be_asked_during_a_session_and_changes_nothing",
    ],
    "a reference or value with `..`, `/`, quotes, `$()`, line ends": [
        "tests/agent/test_agent.py::test_a_reference_that_could_lead_elsewhere_is_refused_by_name",
        "tests/agent/test_agent.py::test_a_value_that_could_lead_elsewhere_is_refused_by_name",
        "tests/agent/test_agent.py::test_words_are_arguments_and_values_are_in_the_environment",
        "tests/agent/test_agent.py::test_a_shell_gets_what_means_nothing_to_it_and_no_more",
    ],
    "an expression in `frames` that may take long on some line": [
        "tests/agent/test_expressions.py::test_slow",
        "tests/agent/test_expressions.py::test_what_is_taken_for_quick_ends",
    ],
    "a path or value that the locale of the agent's program cannot write": [
        "tests/test_cli_agent.py::test_a_path_that_the_locale_cannot_write_is_explained",
    ],
    "a command that the rig does not have, or a rig of iblutil": [
        "tests/test_commands.py::test_an_unknown_command_is_refused_with_those_there_are",
        "tests/test_commands.py::test_an_iblutil_rig_is_refused_by_name_and_hears_nothing",
    ],
    "thousands of calls are outstanding to a rig, on a bad network": [
        "tests/core/test_calls.py::test_ten_thousand_outstanding_calls_under_loss_are_run_once_and_answered_each_to_its_own_caller",
        "tests/test_calls.py::test_calls_through_a_bad_network_are_each_run_once",
        "tests/test_calls.py::test_more_calls_than_there_is_room_for_are_refused_at_once_with_a_remedy",
    ],
    "a command of a rig, or of the task, raises": [
        "tests/test_calls.py::test_the_traceback_of_a_remote_exception_is_shown_above_its_text",
        "tests/test_calls.py::test_what_the_function_of_a_coordinator_raises_is_raised_at_the_rig",
    ],
    "something is published, and a rig has no function for it, or an older rigsync, or iblutil": [
        "tests/test_calls.py::test_what_is_published_is_heard_by_all_rigs_and_confirmed_by_each",
        "tests/test_calls.py::test_rigs_that_do_not_hear_what_is_published_are_named_each_with_its_reason",
    ],
    "a rig calls a command, and no task is in charge, or one with an older rigsync, or by iblutil": [
        "tests/core/test_calls.py::test_a_call_fails_at_once_where_nobody_is_in_charge_or_whoever_is_takes_none",
        "tests/core/test_calls.py::test_a_call_of_a_coordinator_of_the_version_before_says_so_at_once",
        "tests/core/test_calls.py::test_a_coordinator_of_the_iblutil_dialect_takes_no_calls",
    ],
    "a rig calls a command, and the task does not answer, or closes": [
        "tests/test_calls.py::test_a_call_of_a_coordinator_ends_where_nobody_answers",
        "tests/test_calls.py::test_a_coordinator_on_an_event_loop_answers_too",
    ],
    "messages for an instant to come, from others than the one in charge": [
        "tests/test_strangers.py::test_a_flood_for_an_instant_to_come_is_refused_and_the_owner_s_commands_run",
        "tests/core/test_responder.py::test_what_waits_for_its_instant_takes_no_place",
        "tests/core/test_responder.py::test_what_waits_for_its_instant_is_bounded_in_number_and_bytes_whoever_sends_it",
    ],
    "strangers begin large messages over TCP and do not go on, several of them": [
        "tests/test_strangers.py::test_several_slow_strangers_in_a_row_do_not_keep_the_one_in_charge_from_its_message",
        "tests/test_strangers.py::test_one_that_begins_a_large_message_and_stops_does_not_keep_others_from_theirs",
        "tests/test_strangers.py::test_two_slow_senders_of_large_messages_are_both_taken",
    ],
    "strangers send large messages over TCP, many at a time, and read no echo or answer": [
        "tests/test_strangers.py::test_many_that_send_large_messages_and_read_no_echo_take_no_more_than_one_of_them",
        "tests/test_transports_tcp.py::test_the_next_large_message_comes_when_the_echo_of_the_one_before_has_left",
        "tests/test_transports_tcp.py::"
        "test_strangers_are_closed_before_those_who_watch_and_nobody_costs_the_one_in_charge_its_connection",
        "tests/core/test_responder.py::"
        "test_what_handlers_work_on_for_strangers_is_bounded_and_leaves_room_for_who_is_in_charge",
    ],
    "a flood over UDP": [
        "tests/test_transports_udp.py::test_who_belongs_here_does_not_wait_behind_a_flood_of_strangers",
    ],
    "a message of more values than can be read in half a second": [
        "tests/test_strangers.py::test_empty_lists_of_59_mb_are_refused_with_the_reason_and_take_no_memory",
        "tests/test_strangers.py::test_large_texts_at_once_are_taken_one_by_one_in_4_times_their_size",
        "tests/test_strangers.py::test_too_many_values_are_refused_at_the_side_that_sends_them",
        "tests/test_strangers.py::test_an_older_coordinator_that_sends_too_many_values_is_told",
        "tests/test_strangers.py::test_an_older_rig_s_answer_of_too_many_values_is_told_and_not_asked_for_again",
    ],
    "hundreds of refusals of strangers": [
        "tests/test_strangers.py::test_a_flood_of_refusals_floods_no_screen",
        "tests/test_notices.py::test_refusals_that_a_rig_tells_by_the_hundred_flood_no_screen",
        "tests/core/test_reach.py::test_refusals_of_strangers_are_told_a_few_times_and_then_counted",
        "tests/core/test_reach.py::test_of_the_one_in_charge_each_refusal_is_told",
    ],
    "forged addresses that have a rig flood somebody else": [
        "tests/core/test_reach.py::test_nothing_has_a_rig_send_more_than_3_times_as_much_to_who_has_not_shown_that_it_receives",
        "tests/core/test_reach.py::test_answers_to_iblutil_s_coordinators_that_have_shown_nothing_are_bounded_over_all_of_them",
        "tests/test_strangers.py::test_large_answers_reach_a_coordinator_that_is_new_without_delay",
        "tests/test_strangers.py::test_over_a_real_network_large_answers_and_notices_reach_a_coordinator_that_is_new",
        "tests/core/test_reach.py::test_the_host_in_charge_gets_its_first_answer_at_once_whatever_strangers_send",
        "tests/core/test_reach.py::test_an_answer_to_iblutil_s_coordinator_that_may_not_leave_yet_leaves_later",
    ],
    "junk, foreign versions, forged senders": [
        "tests/test_endpoint.py::test_coordinator_takes_junk",
        "tests/test_endpoint.py::test_rig_takes_junk",
        "tests/test_endpoint.py::test_forged_reply_from_another_socket_has_no_effect",
    ],
    "somebody forges a rig's answer, goodbye or dialect, and does not see what you send": [
        "tests/test_forgers.py::test_an_answer_that_is_forged_in_the_rig_s_name_is_no_success",
        "tests/core/test_belief.py::test_forged_goodbyes_notices_and_signs_of_life_mean_nothing",
        "tests/core/test_belief.py::test_a_forged_array_does_not_make_an_iblutil_rig_of_a_known_one",
    ],
    "somebody forges thousands of coordinators, or numbers in the task's name": [
        "tests/core/test_belief.py::test_the_task_goes_on_and_nothing_runs_twice_under_a_flood_of_forged_coordinators",
        "tests/core/test_belief.py::test_no_request_uses_up_all_numbers",
        "tests/test_forgers.py::test_a_flood_of_senders_takes_less_than_64_mb",
    ],
    "an OSC program sends junk, an unknown address, a wrong type or pattern, or thousands of these": [
        "tests/bridges/test_osc_bridge.py::test_what_cannot_be_done_is_answered_with_what_was_wrong",
        "tests/bridges/test_osc_bridge.py::test_junk_of_any_kind_is_counted_and_the_next_good_one_works",
        "tests/bridges/test_osc_parts.py::test_a_hundred_thousand_mutated_packets_are_each_read_or_refused",
        "tests/bridges/test_osc_parts.py::test_no_pattern_matches_for_ever",
    ],
    "an OSC bundle comes after its instant, is for one more than an hour ahead, or waits while the bridge closes": [
        "tests/bridges/test_osc_bridge.py::test_a_bundle_that_comes_late_is_acted_on_at_once_with_a_note",
        "tests/bridges/test_osc_bridge.py::test_what_cannot_wait_is_refused_and_what_waits_is_cancelled_by_close",
    ],
    "an OSC program that a bridge tells is started late, or anew": [
        "tests/bridges/test_osc_bridge.py::test_a_server_that_is_given_is_told_also_where_it_comes_late",
        "tests/bridges/test_osc_bridge.py::test_who_subscribes_is_told_how_each_rig_is_and_then_every_event",
    ],
    "an OSC program frames its packets otherwise than the bridge": [
        "tests/bridges/test_osc_bridge.py::test_the_other_framing_is_named_in_the_log",
    ],
    "a bridge listens where other computers reach it": [
        "tests/bridges/test_osc_bridge.py::test_it_says_so_where_it_listens_beyond_this_computer",
        "tests/bridges/test_zmq_bridge.py::test_it_says_so_where_it_listens_beyond_this_computer_without_keys",
    ],
    "a bridge's library is not installed: python-osc, pyzmq, paho-mqtt": [
        "tests/bridges/test_cli_bridge.py::test_without_its_library_the_command_says_what_to_install",
    ],
    "a bridge of a file lacks its library, as LSL where pylsl's wheel has no liblsl for the system": [
        "tests/bridges/test_cli_bridge.py::test_the_doctor_names_what_the_bridges_of_a_file_lack",
        "tests/bridges/test_cli_bridge.py::test_the_doctor_names_what_the_bridges_of_an_agents_file_lack",
    ],
    "a ZeroMQ program sends junk, an unknown verb, a wrong type, or too much": [
        "tests/bridges/test_zmq_bridge.py::test_wrong_requests_are_answered_with_what_was_wrong_and_the_next_good_one_works",
        "tests/bridges/test_zmq_parts.py::test_thousands_of_mutated_requests_are_each_read_or_refused",
    ],
    "a ZeroMQ subscriber joins late or is slow, so that ZeroMQ drops events": [
        "tests/bridges/test_zmq_bridge.py::test_a_subscriber_in_another_process_that_joins_in_the_middle_misses_none_and_gets_none_twice",
        "tests/bridges/test_zmq_bridge.py::test_what_is_missed_last_of_all_is_known_by_the_beat",
    ],
    "it has missed more than the bridge keeps, or the bridge was started anew": [
        "tests/bridges/test_zmq_bridge.py::test_who_has_missed_more_than_is_kept_or_knew_another_bridge_begins_anew",
    ],
    "ZeroMQ subscribers are killed": [
        "tests/bridges/test_zmq_bridge.py::test_killed_subscribers_leave_no_trace",
    ],
    "a rig that is an OSC or ZeroMQ program does not answer, answers late, twice, something malformed, or for another "
    "message": [
        "tests/bridges/test_program_rigs.py::test_only_ok_is_success",
        "tests/bridges/test_program_rigs.py::test_only_ok_in_json_is_success",
        "tests/bridges/test_program_rigs.py::test_an_answer_that_comes_late_is_not_taken_for_that_of_the_next_message",
        "tests/bridges/test_program_rigs.py::test_the_second_of_two_answers_and_junk_change_nothing",
        "tests/bridges/test_program_rigs.py::test_a_zeromq_answer_that_comes_late_is_nobody_elses_and_pings_tell_that_it_is_there",
    ],
    "it says that it has failed": [
        "tests/bridges/test_program_rigs.py::test_only_ok_is_success",
        "tests/bridges/test_program_rigs.py::test_a_failure_is_told_once_and_without_a_traceback",
    ],
    "nothing listens at its port": [
        "tests/bridges/test_program_rigs.py::test_a_port_at_which_nothing_listens_is_told_at_once",
        "tests/bridges/test_program_rigs.py::test_a_program_that_ends_in_a_session_is_told_and_begins_anew_when_it_is_started_again",
    ],
    "something answers in its place from another computer": [
        "tests/bridges/test_program_rigs.py::test_answers_come_to_a_port_of_their_own_and_from_no_other_computer",
    ],
    "it answers no ping, or is started anew": [
        "tests/bridges/test_program_rigs.py::test_a_program_that_answers_no_ping_is_lost_and_back_when_it_does",
        "tests/bridges/test_program_rigs.py::test_a_zeromq_program_is_asked_in_json_and_killed_and_started_again",
    ],
    "it confirms nothing, having no `answer`": [
        "tests/bridges/test_program_rigs.py::test_what_nobody_confirms_is_sent_and_never_success",
        "tests/bridges/test_program_rigs.py::test_commands_tell_that_nobody_confirms",
    ],
    "an experiment is interrupted when its start has left already for an instant": [
        "tests/bridges/test_program_rigs.py::test_an_interrupt_is_acted_on_after_a_start_that_has_left_already",
    ],
    "`rigs.yaml` has a field, key or message that such a rig does not know": [
        "tests/test_config.py::test_what_is_no_file_of_rigs",
    ],
    "a broker of MQTT is killed or cut off, also in an experiment, and is back within some seconds": [
        "tests/test_mqtt.py::test_a_broker_that_is_killed_in_an_experiment_comes_back_and_nothing_runs_twice",
        "tests/test_mqtt.py::test_a_rig_that_starts_before_its_broker_listens_as_soon_as_that_is_there",
    ],
    "a broker of MQTT stays away": ["tests/test_mqtt.py::test_a_broker_that_stays_away_is_named_as_the_reason"],
    "a rig at a broker is killed, or its cable is pulled": [
        "tests/test_mqtt.py::test_a_killed_rig_is_lost_at_once_by_its_last_will",
        "tests/test_mqtt.py::test_a_rig_whose_connection_ended_is_not_taken_for_one_whose_program_ended",
    ],
    "nobody listens under a rig's name at the broker: a wrong prefix or name, or its program does not run": [
        "tests/test_mqtt.py::test_a_rig_that_nobody_hears_is_lost_at_once_with_the_topic",
    ],
    "a broker refuses the password or a topic, is full, or is none": [
        "tests/test_mqtt.py::test_a_broker_that_refuses_the_password_is_told_once_and_let_in_later",
        "tests/test_mqtt.py::test_a_broker_that_is_full_says_so",
        "tests/test_mqtt.py::test_a_port_where_no_broker_is_says_so",
        "tests/test_facility.py::test_a_task_without_the_right_to_publish_is_told_the_topic",
    ],
    "a message is larger than the broker takes": [
        "tests/test_mqtt.py::test_frames_that_are_larger_than_the_broker_admits"
    ],
    "two rigs of one name at one prefix of a broker": [
        "tests/test_mqtt.py::test_a_second_rig_of_the_same_name_is_refused_and_the_first_goes_on",
        "tests/test_mqtt.py::test_of_two_rigs_of_a_name_that_meet_later_one_serves",
    ],
    "a rig tries to speak for another one at a broker with an access list": [
        "tests/test_facility.py::test_a_rig_cannot_be_another_command_one_or_speak_for_one",
    ],
    "somebody publishes junk on the topics of rigs": ["tests/test_mqtt.py::test_junk_on_the_topics_disturbs_nobody"],
    "publications are lost on their way to the broker": [
        "tests/test_mqtt.py::test_five_of_a_hundred_publications_are_lost_and_nothing_differs",
    ],
    "a ZeroMQ program without a key that the bridge knows": [
        "tests/bridges/test_zmq_bridge.py::test_with_keys_only_those_who_are_named_connect",
        "tests/bridges/test_zmq_hubs.py::test_with_keys_only_the_other_side_is_heard",
    ],
    "a program whose hub is joined with yours by ZeroMQ is late, slow, killed or started again": [
        "tests/bridges/test_zmq_hubs.py::test_a_program_that_is_killed_and_started_again_is_told_all_that_came_meanwhile",
        "tests/bridges/test_zmq_hubs.py::test_a_dead_peer_costs_a_bounded_room_and_both_sides_tell_what_went",
        "tests/bridges/test_zmq_hubs_parts.py::test_each_comes_once_and_in_order_whatever_is_lost_and_whoever_is_started_anew",
    ],
    "it sends junk, events of an unknown type, too much, or is of another version": [
        "tests/bridges/test_zmq_hubs.py::test_junk_is_answered_and_counted_and_the_next_good_event_is_told",
        "tests/bridges/test_zmq_hubs.py::test_a_peer_that_refuses_or_talks_nonsense_is_told_of_and_ends_nothing",
        "tests/bridges/test_zmq_hubs.py::test_the_hubs_of_two_programs_tell_each_other_whole_events_once",
        "tests/bridges/test_zmq_hubs_parts.py::test_damaged_events_raise_nothing_else",
    ],
    "hubs of several programs are joined in a circle": [
        "tests/bridges/test_zmq_hubs.py::test_no_event_goes_round_and_none_is_told_twice",
    ],
    "another lab's events come to a lab's hub": [
        "tests/bridges/test_zmq_hubs.py::test_events_of_others_are_told_to_subscribers_and_are_no_answers_to_this_lab",
    ],
    "a program commands a rig by the rig's own bridge": [
        "tests/bridges/test_rig_bridges.py::test_programs_hear_what_happens_at_a_rig_and_how_it_is_and_command_nothing",
    ],
    "a bridge of an agent's file cannot listen, or lacks its library": [
        "tests/bridges/test_rig_bridges.py::test_what_is_wrong_with_a_bridge_is_told_before_the_rig_serves",
    ],
    "`rigsync bridge lsl` without pylsl, or where its wheel has no liblsl": [
        "tests/bridges/test_cli_lsl.py::test_without_its_library_the_command_says_what_to_install",
    ],
    "the LSL stream of `--from` is not there, ends, is cut off, or comes back": [
        "tests/bridges/test_lsl_bridge.py::test_markers_of_a_stream_become_events_which_comes_and_goes_and_comes",
        "tests/bridges/test_lsl_bridge.py::test_a_stream_that_falls_silent_is_searched_again",
    ],
    "the LSL stream of `--from` has a regular rate or more than 100 channels, or a marker of more than 65,536 "
    "characters": [
        "tests/bridges/test_lsl_bridge.py::test_a_stream_that_has_no_markers",
        "tests/bridges/test_lsl_bridge.py::test_numbers_several_channels_and_bytes_that_are_no_text",
    ],
    "liblsl fails, which now and then ends the program that it is in": [
        "tests/bridges/test_lsl_bridge.py::"
        "test_where_liblsl_ends_its_program_the_rigs_go_on_and_recorders_find_the_stream_again",
        "tests/bridges/test_lsl_bridge.py::test_markers_that_a_program_has_not_taken_wait_for_the_next",
        "tests/bridges/test_cli_lsl.py::test_nothing_is_left_of_a_command_that_is_killed",
    ],
    "an LSL bridge closes, or liblsl does not keep up": [
        "tests/bridges/test_lsl_bridge.py::test_what_was_told_before_the_bridge_closes_comes",
        "tests/bridges/test_lsl_bridge.py::test_a_program_that_hangs_is_killed_when_the_bridge_closes",
        "tests/bridges/test_lsl_bridge.py::test_markers_that_liblsl_does_not_take_are_counted",
    ],
    "the broker of the MQTT bridge is away, or is started anew": [
        "tests/bridges/test_mqtt_bridge.py::test_what_happens_while_the_broker_is_away_comes_when_it_is_back",
        "tests/bridges/test_mqtt_bridge.py::test_a_broker_that_is_killed_and_started_anew_has_the_pictures_again_and_that_is_told_once",
    ],
    "it is away for longer than that, or takes no more": [
        "tests/bridges/test_mqtt_bridge.py::test_what_waits_for_the_broker_has_a_bound_and_what_is_left_out_is_counted_and_told",
    ],
    "it lets the bridge not in, or not publish on some topic": [
        "tests/bridges/test_mqtt_bridge.py::test_a_broker_that_lets_nobody_in_is_told_once_by_name_with_the_remedy",
        "tests/bridges/test_mqtt_bridge.py::test_what_the_broker_s_access_list_forbids_is_told_and_all_else_goes_on",
    ],
    "an MQTT bridge is killed, or loses its network": [
        "tests/bridges/test_mqtt_bridge.py::test_the_pictures_of_a_bridge_that_is_killed_are_marked_as_no_longer_kept",
    ],
    "an MQTT program asks for what cannot be, by a retained message, or for an answer on a topic that is another's": [
        "tests/bridges/test_mqtt_bridge.py::test_what_is_asked_wrongly_is_refused_and_the_next_good_one_works",
    ],
    "several programs see one failure": [
        "tests/alerts/test_alerting.py::test_who_only_watches_tells_nothing_and_who_is_in_charge_tells_once",
        "tests/alerts/test_alerting.py::test_an_agent_tells_of_its_recorder_s_death_and_of_its_session_s_end",
        "tests/alerts/test_watch.py::test_a_program_that_only_watches_tells_nothing",
    ],
    "a webhook hangs, answers 500, or redirects": [
        "tests/alerts/test_alerting.py::test_an_experiment_is_undisturbed_by_an_address_that_does_not_work",
        "tests/alerts/test_alerting.py::test_it_is_tried_again_until_it_works",
        "tests/alerts/test_alerting.py::test_one_that_hangs_holds_up_no_other_alert_and_no_close",
        "tests/alerts/test_webhook.py::test_one_that_hangs_is_left_when_the_time_is_over",
        "tests/alerts/test_webhook.py::test_a_redirect_is_not_followed_and_named_without_what_is_secret",
        "tests/alerts/test_plan.py::test_it_is_tried_again_later_and_later_and_given_up",
    ],
    "a command that is told never ends": [
        "tests/alerts/test_alerting.py::test_a_command_that_never_ends_disturbs_nobody_and_nothing_is_left_of_it",
        "tests/alerts/test_command.py::test_one_that_never_ends_is_ended_with_all_that_it_has_started",
    ],
    "a webhook's certificate is not valid, its variable is not set, a program is not there, there is no desktop": [
        "tests/alerts/test_webhook.py::test_a_certificate_that_nobody_vouches_for",
        "tests/alerts/test_webhook.py::test_the_url_may_stand_in_the_environment",
        "tests/alerts/test_command.py::test_one_that_is_not_there_or_cannot_run",
        "tests/alerts/test_texts.py::test_where_there_is_no_desktop_it_says_so",
        "tests/alerts/test_cli_alert.py::test_check_says_what_cannot_be_told_from_here",
    ],
    "a rig fails thousands of times, or all rigs are lost at once": [
        "tests/alerts/test_alerting.py::test_thousands_of_failures_are_few_alerts",
        "tests/alerts/test_plan.py::test_what_happens_at_once_is_told_in_one",
        "tests/alerts/test_plan.py::test_a_cause_is_told_once_a_minute_with_the_number_of_those_held_back",
    ],
    "a rig's text has quotes, markup, a `-` at its beginning, or control characters": [
        "tests/alerts/test_texts.py::test_hostile_text_is_text_in_every_body",
        "tests/alerts/test_texts.py::test_hostile_text_is_one_argument_and_no_option",
        "tests/alerts/test_config.py::test_a_field_never_becomes_code",
    ],
    "a program closes, or ends, while something waits to be told": [
        "tests/alerts/test_alerting.py::test_a_program_that_just_ends_tells_of_the_interrupt",
        "tests/alerts/test_alerting.py::test_what_an_agent_has_to_tell_at_its_end_is_told",
    ],
    "a mistake in `alerts`": [
        "tests/alerts/test_config.py::test_mistakes_are_named_with_file_line_and_key",
        "tests/alerts/test_config.py::test_no_error_shows_a_url",
    ],
    "probes are seldom, by `beat` in rigs.yaml": [
        "tests/test_ownership.py::test_an_owner_with_a_long_beat_is_there_between_two_probes",
        "tests/core/test_beats.py::test_with_a_beat_of_ten_seconds_no_notice_is_held_back_and_no_stranger_takes_over",
    ],
    "a message over TCP is larger than the rig takes; with characters beyond U+00FF it counts for more": [
        "tests/test_strangers.py::test_a_text_of_wide_characters_takes_four_times_what_may_come_at_most",
        "tests/agent/test_agent.py::test_a_message_over_max_message_of_the_file_is_refused_with_the_key",
        "tests/test_cli.py::test_serve_refuses_what_is_over_its_max_message",
    ],
    "the file says `udp://`, and the rig listens on `tcp://`, or the other way round": [
        "tests/test_doctor.py::test_a_rig_that_answers_by_the_other_protocol",
    ],
    "rigs have swapped addresses or names": [
        "tests/test_forgers.py::test_rigs_that_have_swapped_addresses_are_named_and_asked_nothing",
    ],
    "`rigsync run --ref` with a reference of another form": [
        "tests/test_cli_run.py::test_a_reference_of_another_form_is_refused_unless_it_is_meant",
    ],
    "the report of a session cannot be written: its folder is no folder, the disk is full, the drive hangs": [
        "tests/journal/test_report.py::test_a_report_that_cannot_be_written_is_one_line_and_disturbs_nobody",
        "tests/journal/test_report.py::test_what_cannot_be_written_leaves_nothing_behind",
        "tests/journal/test_report.py::test_pushes_do_not_wait_for_a_report",
    ],
    "`rigsync report -o` names a file that is there and is no report": [
        "tests/journal/test_report.py::test_what_is_no_report_is_left_as_it_is",
        "tests/journal/test_report.py::test_what_cannot_be_reported_is_said_in_a_line",
    ],
    "a mistake in `rigs.yaml`, or in the file of an agent": [
        "tests/test_config.py::test_what_is_no_rig",
        "tests/agent/test_serve.py::test_what_is_wrong_is_told_before_anything_listens",
        "tests/agent/test_serve.py::test_all_mistakes_of_all_files_are_told_before_anything_listens",
        "tests/test_yaml.py::test_all_mistakes_of_a_file_are_told_at_once_and_nothing_that_depends_on_them",
        "tests/test_cli.py::test_all_mistakes_of_a_file_are_told_at_once",
        "tests/test_cli_agent.py::test_all_mistakes_are_told_at_once",
    ],
    'a Windows path in double quotes in such a file, as `"E:\\behaviour"`': [
        "tests/test_yaml.py::test_a_backslash_in_double_quotes_is_explained",
        "tests/test_yaml.py::test_a_backslash_before_the_closing_quote_is_explained",
        "tests/test_cli_agent.py::test_check_explains_a_backslash_in_either_kind_of_file",
    ],
    "a program is killed while the journal is written, or the computer loses its power": [
        "tests/journal/test_kills.py::test_a_program_that_is_killed",
        "tests/journal/test_kills.py::test_a_computer_that_loses_its_power",
        "tests/journal/test_kills.py::test_a_log_that_is_cut_in_the_middle_of_a_write",
    ],
    "the disk of the journal is full": [
        "tests/journal/test_trouble.py::test_a_full_disk",
    ],
    "it hangs, or takes less than is told": [
        "tests/journal/test_trouble.py::test_a_disk_that_hangs_holds_up_a_push_for_a_second_and_no_more",
        "tests/journal/test_trouble.py::test_where_nothing_can_be_written_nobody_waits",
    ],
    "another program holds the journal for more than 5 s": [
        "tests/journal/test_trouble.py::test_a_file_that_another_program_holds",
        "tests/journal/test_trouble.py::test_two_programs_that_write_one_journal",
    ],
    "the journal is moved, replaced or deleted while it is written, perhaps with its folder": [
        "tests/journal/test_trouble.py::test_a_folder_that_is_gone",
        "tests/journal/test_trouble.py::test_a_file_that_is_replaced_in_the_middle_of_a_session",
    ],
    "the journal is damaged, is another program's database, is of a newer rigsync, may not be written, "
    "or lies on a network drive": [
        "tests/journal/test_trouble.py::test_a_file_that_is_damaged",
        "tests/journal/test_trouble.py::test_a_file_that_is_damaged_inside",
        "tests/journal/test_trouble.py::test_the_database_of_another_program",
        "tests/journal/test_trouble.py::test_a_journal_of_a_newer_rigsync",
        "tests/journal/test_trouble.py::test_a_folder_that_may_not_be_written",
        "tests/journal/test_trouble.py::test_a_file_that_may_not_be_written",
        "tests/journal/test_trouble.py::test_a_network_drive_is_refused_by_name",
    ],
    "the journal becomes too old or too large": [
        "tests/journal/test_parts.py::test_what_is_older_than_it_is_to_be_kept_goes_whole",
        "tests/journal/test_parts.py::test_what_is_too_much_goes_and_the_file_becomes_smaller",
    ],
    "names, references and notices hold quotes, control characters or half a character, or an event "
    "cannot be put into words": [
        "tests/journal/test_trouble.py::test_whatever_an_event_holds",
        "tests/journal/test_trouble.py::test_what_cannot_be_recorded_costs_nothing_else",
    ],
    "a journal that is asked is not there, is no database or another program's, is of a newer version, or is broken": [
        "tests/journal/test_query.py::test_no_journal",
        "tests/journal/test_query.py::test_the_database_of_another_program",
        "tests/journal/test_query.py::test_a_newer_version",
        "tests/journal/test_query.py::test_a_part_of_the_file_is_broken",
        "tests/journal/test_cli_log.py::test_no_journal",
    ],
    "a journal that may only be read, or that somebody writes meanwhile, is asked": [
        "tests/journal/test_query.py::test_one_who_may_only_read",
        "tests/journal/test_query.py::test_it_is_asked_while_it_is_written",
        "tests/journal/test_cli_log.py::test_following",
    ],
    "`--since yesterdayish`, or a reference that nobody knows": [
        "tests/journal/test_cli_log.py::test_a_time_that_is_none",
        "tests/journal/test_cli_log.py::test_a_reference_that_nobody_knows",
    ],
    "hostile text in names and notices, in the terminal and in a spreadsheet": [
        "tests/journal/test_cli_log.py::test_hostile_text_stays_in_its_line",
        "tests/journal/test_cli_log.py::test_cells_are_no_formulas",
    ],
    "the clocks of the PCs differ, or are set in the middle of a session, and their journals are merged": [
        "tests/journal/test_four_clocks.py::test_four_computers_whose_clocks_are_minutes_apart",
        "tests/journal/test_query.py::test_what_a_rig_has_written_is_put_in_its_place",
        "tests/journal/test_query.py::test_a_rig_whose_clock_nobody_knows",
    ],
    "`rigsync log --collect`, and a rig is off, does another program's experiment, or has no journal": [
        "tests/journal/test_collecting.py::test_a_rig_that_is_off",
        "tests/journal/test_collecting.py::test_a_rig_that_does_another_programs_experiment",
        "tests/journal/test_collecting.py::test_rigs_that_have_none",
    ],
    "a rig tells nonsense as its journal, or what is another's": [
        "tests/journal/test_collected.py::test_a_page_of_another_form_changes_nothing",
        "tests/journal/test_collected.py::test_what_only_a_coordinator_tells_is_not_taken_from_a_rig",
        "tests/journal/test_collected.py::test_the_run_of_another_rig_is_not_added_to",
    ],
    "journals are collected twice, by two programs at once, or the collecting is stopped": [
        "tests/journal/test_collected.py::test_what_a_rig_has_written_is_here_and_comes_once",
        "tests/journal/test_collected.py::test_two_that_collect_at_once_write_nothing_twice",
        "tests/journal/test_collected.py::test_pages_are_in_the_file_whole_or_not_at_all",
    ],
}


def rows() -> list[str]:
    page = (ROOT / "docs" / "faults.md").read_text(encoding="utf-8")
    cells = [line.split("|")[1].strip() for line in page.splitlines() if line.startswith("| ")]
    return [cell for cell in cells if cell not in {"what happens", "---"}]


def test_every_row_of_the_table_is_shown_by_a_test_and_no_other() -> None:
    assert rows() == list(SHOWN_BY)


@cache
def functions_of(path: str) -> frozenset[str]:
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    return frozenset(node.name for node in tree.body if isinstance(node, ast.FunctionDef))


@pytest.mark.parametrize("row", SHOWN_BY)
def test_the_tests_that_show_a_row_exist(row: str) -> None:
    assert SHOWN_BY[row]
    for test in SHOWN_BY[row]:
        path, _, name = test.partition("::")
        assert name in functions_of(path), test
