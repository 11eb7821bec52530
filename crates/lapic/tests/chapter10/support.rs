//! Local APICs to begin with, and short words for their registers.
use softvirt_lapic::{ApicBase, Config, Effect, LocalApic, Message, Now};
use x86_state::{Msr, MsrFault};

pub(crate) const NOW: Now = Now { bus: 0, tsc: 0 };

pub(crate) const DISABLED: u64 = 0xfee0_0000;
pub(crate) const XAPIC: u64 = DISABLED | ApicBase::EN;
pub(crate) const X2APIC: u64 = XAPIC | ApicBase::EXTD;

pub(crate) fn at(bus: u64) -> Now {
    Now { bus, tsc: 0 }
}

pub(crate) fn at_tsc(tsc: u64) -> Now {
    Now { bus: 0, tsc }
}

/// Enabled by software, in xAPIC mode.
pub(crate) fn xapic_of(config: Config) -> LocalApic {
    let mut apic = LocalApic::new(config);
    write(&mut apic, 0xf0, 0x1ff);
    apic
}

/// Enabled by software, in x2APIC mode.
pub(crate) fn x2apic_of(config: Config) -> LocalApic {
    let mut apic = xapic_of(config);
    apic.write_apic_base(X2APIC).unwrap();
    apic
}

pub(crate) fn xapic() -> LocalApic {
    xapic_of(Config::intel(0))
}

pub(crate) fn x2apic() -> LocalApic {
    x2apic_of(Config::intel(0))
}

pub(crate) fn read(apic: &mut LocalApic, offset: u16) -> u32 {
    apic.mmio_read(offset, 4, NOW) as u32
}

/// A write that sends nothing.
pub(crate) fn write(apic: &mut LocalApic, offset: u16, value: u32) {
    assert_eq!(apic.mmio_write(offset, 4, value, NOW), Effect::None);
}

pub(crate) fn rdmsr(apic: &mut LocalApic, msr: u32) -> Result<u64, MsrFault> {
    apic.read_msr(Msr(msr), NOW)
}

pub(crate) fn wrmsr(apic: &mut LocalApic, msr: u32, value: u64) -> Result<Effect, MsrFault> {
    apic.write_msr(Msr(msr), value, NOW)
}

/// What a write of ICR (xAPIC mode, high half first) sends.
pub(crate) fn ipi(apic: &mut LocalApic, destination: u8, low: u32) -> Option<Message> {
    write(apic, 0x310, u32::from(destination) << 24);
    sent(apic.mmio_write(0x300, 4, low, NOW))
}

pub(crate) fn sent(effect: Effect) -> Option<Message> {
    match effect {
        Effect::Send(message) => Some(message),
        Effect::None => None,
        Effect::BroadcastEoi { .. } => panic!("an EOI is not an IPI"),
    }
}

/// The ESR, after the write that makes errors readable.
pub(crate) fn errors(apic: &mut LocalApic) -> u32 {
    apic.errors.write();
    apic.errors.visible.bits()
}
