//! Exits due to task switches: source, event under delivery, instruction length, RF.

use vmx_model::event::Circumstances;
use vmx_model::exit::ResumeFlag::{Clear, Kept, Set};
use vmx_model::information::TaskSwitchSource as Source;
use vmx_model::intercept;
use vmx_model::reasons::ExitReason;
use vmx_model::{Vmcs, synth};
use x86_state::{Event, EventType, Exception};

/// RF is 0: "cleared at the start of the instruction" (3B 17.3.1.1), so that the old TSS gets 0 (27.3.3).
#[test]
fn by_an_instruction() {
    for (source, qualification) in
        [(Source::Call, 0x0000_0018), (Source::Iret, 0x4000_0018), (Source::Jmp, 0x8000_0018)]
    {
        let exit = intercept::task_switch(0x18, source, 2, &Circumstances::default());
        assert_eq!((exit.reason, exit.qualification), (ExitReason::TASK_SWITCH, qualification));
        assert_eq!((exit.instruction_len_bytes, exit.delivering, exit.resume_flag), (Some(2), None, Clear));
    }
}

/// 27.2.5: the length of a software event; 27.3.3: RF as the old TSS would get it; 3B 17.3.1.1: "RF is pushed as 0, since it was cleared at the
/// start of the software interrupt".
#[test]
fn by_a_task_gate() {
    let int3 = Event { kind: EventType::SOFTWARE_EXCEPTION, ..Event::software_interrupt(3, 1) };
    let int1 = Event { kind: EventType::PRIVILEGED_SOFTWARE_EXCEPTION, ..Event::software_interrupt(1, 1) };
    for (name, event, len, rf) in [
        ("INT n", Event::software_interrupt(0x80, 2), Some(2), Clear),
        ("INT3", int3, Some(1), Clear),
        ("INT1", int1, Some(1), Clear),
        ("#GP", Event::exception_with_code(Exception::GP, 0x10), None, Set),
        ("#UD", Event::exception(Exception::UD), None, Set),
        ("#DF", Event::exception_with_code(Exception::DF, 0), None, Kept),
        ("NMI", Event::nmi(), None, Kept),
        ("interrupt", Event::external_interrupt(0x30), None, Kept),
    ] {
        let exit = intercept::task_switch(0x20, Source::IdtGate, 7, &Circumstances::during(event));
        assert_eq!(exit.qualification, 0xc000_0020);
        assert_eq!((exit.instruction_len_bytes, exit.resume_flag), (len, rf), "{name}");
        assert_eq!((exit.delivering, exit.event), (Some(event), None), "{name}");
    }
}

#[test]
fn by_a_task_gate_during_an_injection() {
    let circumstances = Circumstances { injected: true, ..Circumstances::during(Event::external_interrupt(0x30)) };
    assert!(intercept::task_switch(0x20, Source::IdtGate, 0, &circumstances).injected);
    assert!(!intercept::task_switch(0x20, Source::Call, 2, &circumstances).injected);
}

/// [`synth`](vmx_model::synth) makes the same exit, but for the length, which it leaves to the event.
#[test]
fn synth_agrees_on_task_gates() {
    for event in [Event::software_interrupt(0x80, 2), Event::exception(Exception::UD), Event::nmi()] {
        let exit = intercept::task_switch(0x20, Source::IdtGate, 0, &Circumstances::during(event));
        let synth = synth::task_switch(0x20, synth::TaskSwitch::Gate { delivering: event });
        let (mut ours, mut theirs) = (Vmcs::new(), Vmcs::new());
        exit.record(&mut ours);
        synth.record(&mut theirs);
        assert_eq!((ours, exit.resume_flag), (theirs, synth.resume_flag), "{event:?}");
    }
}
